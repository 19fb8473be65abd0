"""Whether the DAGs that must run are there, awake, read and in time, and every run that is due is made."""

from __future__ import annotations

import time

# A file is parsed again within five minutes.
UNREAD_SECONDS = 600
# Those with a run due for five minutes, and none created meanwhile.
LATE_RUNS = """
SELECT string_agg(dag_id, ', ' ORDER BY dag_id) FROM dag d
WHERE NOT is_paused AND NOT is_stale AND NOT has_import_errors AND NOT exceeds_max_non_backfill
  AND next_dagrun_create_after < now() - interval '5 min'
  AND NOT EXISTS (SELECT 1 FROM dag_run r WHERE r.dag_id = d.dag_id AND r.queued_at > now() - interval '5 min')
"""
# Of each DAG: is it paused, the seconds since it was read, the day of its first run, the days of runs that succeeded.
PIPELINES = """
SELECT dag_id, is_paused, coalesce(extract(epoch FROM now() - last_parsed_time)::int, 0),
  coalesce((SELECT min(run_after) AT TIME ZONE 'UTC' FROM dag_run r WHERE r.dag_id = d.dag_id)::date::text, '9999'),
  array_to_string(ARRAY(SELECT DISTINCT (run_after AT TIME ZONE 'UTC')::date FROM dag_run r
    WHERE r.dag_id = d.dag_id AND state = 'success' AND run_after > now() - interval '3 days'), ' ')
FROM dag d WHERE NOT is_stale
"""


def problems(found: str, wanted: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return what is wrong with the DAGs that are wanted, each with its deadline, and what fixes it."""
    known = {dag: rest for dag, *rest in (line.split("|") for line in found.splitlines())}
    wrong, fixes = [], []
    for dag, deadline in wanted.items():
        if dag not in known:
            wrong.append(f"{dag} is not there")
            fixes.append("playbooks/history.yml says which release dropped it")
            continue
        paused, age, first, succeeded = known[dag]
        if paused == "t":
            wrong.append(f"{dag} is paused")
            fixes.append(f"sudo airflow dags unpause {dag}")
        elif int(age) > UNREAD_SECONDS:
            wrong.append(f"{dag} was not read for {int(age) // 60} min")
            fixes.append("sudo airflow-restart dag-processor")
        elif deadline and (day := last_day(deadline)) > first and day not in succeeded.split():
            wrong.append(f"{dag} of {day} has not succeeded by {deadline} UTC")
            fixes.append(f"look at its run, /dags/{dag}")
    return wrong, fixes


def last_day(deadline: str) -> str:
    """Return the day whose deadline, at this time of day in UTC, was the last to pass."""
    now = time.time()
    today = time.strftime("%H:%M", time.gmtime(now)) >= deadline
    return time.strftime("%Y-%m-%d", time.gmtime(now if today else now - 86400))
