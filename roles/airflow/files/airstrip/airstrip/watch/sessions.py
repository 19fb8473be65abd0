"""What the database knows of services that get nothing done, and of the sessions that hold them up."""

from __future__ import annotations

import os
import subprocess

ANSWER_SECONDS = 10
# A trigger is taken within a second or two.
LATE_SECONDS = 60
HELD_SECONDS = 12
SERVICES = "'airflow-api-server', 'airflow-scheduler', 'airflow-dag-processor', 'airflow-triggerer'"
# The kind of a finding, and what it says. A service is known by its unit's name, which its sessions carry. The one at
# the root of a queue is ended, unless it is one of Airflow's own at work. A triggerer that holds as many triggers as it
# can leaves the rest, which is no fault: one that takes none at all hangs.
LOOK = f"""
WITH RECURSIVE sessions AS (
  SELECT *, count(*) OVER (PARTITION BY usename, application_name) AS many, count(*) OVER () AS taken,
    coalesce(nullif(application_name, ''), usename) AS who, now() - state_change > interval '{HELD_SECONDS} s' AS long
  FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
), held AS (
  SELECT l.pid FROM pg_locks l JOIN sessions s USING (pid)
  WHERE NOT l.granted AND l.waitstart < now() - interval '{HELD_SECONDS} s'
    AND s.datname = current_database() AND application_name IN ({SERVICES})
), queue AS (
  SELECT unnest(pg_blocking_pids(pid)) AS pid FROM held
  UNION SELECT unnest(pg_blocking_pids(queue.pid)) FROM queue
)
SELECT 'ended', format('session %s of %s (%s), for which a service waited: %s', pid, who, state,
    translate(left(query, 120), E'\\n\\t', '  ')), pg_terminate_backend(pid)
FROM sessions WHERE pid IN (SELECT pid FROM queue) AND cardinality(pg_blocking_pids(pid)) = 0
  AND xact_start < now() - interval '{HELD_SECONDS} s'
  AND NOT (state = 'active' AND application_name IN ({SERVICES}, 'airflow-cli'))
UNION ALL
SELECT 'ended', format('an idle session of %s, since no connection was left', who), pg_terminate_backend(pid)
FROM sessions WHERE state LIKE 'idle%' AND long AND many = (SELECT max(many) FROM sessions)
  AND taken + 2 >= current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
UNION ALL
SELECT 'airflow-triggerer', count(*) || ' triggers wait to be taken', NULL
FROM trigger WHERE created_date < now() - interval '{LATE_SECONDS} s'
HAVING count(*) > 0 AND count(triggerer_id) = 0
"""
# The age of the oldest segment of the history that was not archived yet.
WAITING = """
SELECT coalesce(extract(epoch FROM now() - min(modification))::int, 0)
FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'
"""


class NoDatabase(Exception):
    """PostgreSQL does not answer."""


def ask(query: str, database: str, **values: str) -> list[list[str]]:
    """Return the rows of a query, in which `:'name'` is a value. Raises NoDatabase.

    It asks as PostgreSQL's superuser, for whom some connections are always left.
    """
    given = [f"--set={name}={value}" for name, value in values.items()]
    try:
        done = subprocess.run(
            ["psql", "-AtqX", "-F", "\t", "--set=ON_ERROR_STOP=1", *given, database],
            **{"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": "/"},
            env={"PATH": os.defpath, "PGAPPNAME": "airstrip"},
            **{"input": query, "text": True, "capture_output": True, "timeout": ANSWER_SECONDS},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoDatabase(f"it said nothing for {ANSWER_SECONDS} s") from None
    if done.returncode:
        raise NoDatabase(f"it said {done.stderr.strip()}")
    return [line.split("\t") for line in done.stdout.splitlines()]


def look(database: str) -> list[tuple[str, str]]:
    """End the sessions that hold up a service; return them as `ended`, and what each service fails to do.

    Raises NoDatabase.
    """
    return [(kind, said) for kind, said, _ in ask(LOOK, database)]
