"""Metrics of this host for Prometheus, besides the node exporter's own.

`airstrip-heal` writes them where the node exporter looks, even while Airflow hangs; they go when it ends.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from airstrip.release.disk import write
from airstrip.release.folder import ROOT, live
from airstrip.systemd import kind, properties
from airstrip.watch.done import done
from airstrip.watch.findings import Settings
from airstrip.watch.sessions import NoDatabase, ask

FILE = Path("/run/airstrip-heal/airstrip.prom")
EVERY_SECONDS = 30
# nginx's status page, which only this host reaches.
NGINX = "http://127.0.0.1:8081/"
ANSWER_SECONDS = 5
DAY_SECONDS = 86400
# What the watch found when it last looked.
LOOKED = Path("/run/airstrip-watch/state.json")
UNIT = ("Id", "ActiveState", "MemoryCurrent", "CPUUsageNSec", "NRestarts")
# Each row is a figure: its name, its labels, its value. Counts of nothing are 0, so that none is absent.
QUERY = """
WITH states (state) AS (SELECT unnest(ARRAY['scheduled', 'queued', 'running', 'deferred', 'up_for_retry'])),
statistics AS (SELECT * FROM pg_stat_database WHERE datname IS NOT NULL AND datname NOT LIKE 'template%')
SELECT 'airflow_tasks', json_build_object('state', s.state, 'queue', coalesce(t.queue, 'default')), count(t.id)
FROM states s LEFT JOIN task_instance t USING (state) GROUP BY s.state, t.queue
UNION ALL
SELECT 'airflow_oldest_waiting_seconds', '{}',
  coalesce(extract(epoch FROM now() - min(CASE t.state WHEN 'queued' THEN queued_dttm ELSE scheduled_dttm END)), 0)
FROM task_instance t JOIN dag_run r USING (dag_id, run_id) JOIN dag USING (dag_id)
WHERE t.state IN ('scheduled', 'queued') AND r.state = 'running' AND NOT is_paused
UNION ALL
SELECT 'airflow_tasks_failed_last_hour', '{}', count(*)
FROM task_instance WHERE state = 'failed' AND end_date > now() - interval '1 hour'
UNION ALL
SELECT 'airflow_runs_failed_last_hour', '{}', count(*)
FROM dag_run WHERE state = 'failed' AND end_date > now() - interval '1 hour'
UNION ALL
SELECT 'airflow_runs', json_build_object('state', 'running'), count(*) FROM dag_run WHERE state = 'running'
UNION ALL
SELECT 'airflow_heartbeat_age_seconds', json_build_object('component', job_type),
  extract(epoch FROM now() - max(latest_heartbeat))
FROM job WHERE state = 'running' GROUP BY job_type
UNION ALL
SELECT 'airflow_import_errors', '{}', count(*) FROM import_error
UNION ALL
SELECT 'airflow_dags', json_build_object('paused', is_paused), count(*) FROM dag WHERE NOT is_stale GROUP BY is_paused
UNION ALL
SELECT 'airflow_parse_seconds', '{}', coalesce(sum(last_parse_duration), 0) FROM dag WHERE NOT is_stale
UNION ALL
SELECT 'airflow_triggers_waiting', '{}', count(*) FROM trigger WHERE triggerer_id IS NULL
UNION ALL
SELECT 'postgresql_database_bytes', json_build_object('database', datname), pg_database_size(datname) FROM statistics
UNION ALL
SELECT 'postgresql_commits_total', json_build_object('database', datname), xact_commit FROM statistics
UNION ALL
SELECT 'postgresql_rollbacks_total', json_build_object('database', datname), xact_rollback FROM statistics
UNION ALL
SELECT 'postgresql_deadlocks_total', json_build_object('database', datname), deadlocks FROM statistics
UNION ALL
SELECT 'postgresql_connections', json_build_object('state', coalesce(state, 'unknown')), count(*)
FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY state
UNION ALL
SELECT 'postgresql_connections_max', '{}', setting::int FROM pg_settings WHERE name = 'max_connections'
UNION ALL
SELECT 'postgresql_longest_transaction_seconds', '{}', coalesce(extract(epoch FROM now() - min(xact_start)), 0)
FROM pg_stat_activity WHERE backend_type = 'client backend'
UNION ALL
SELECT 'postgresql_locks_waiting', '{}', count(*) FROM pg_locks WHERE NOT granted
"""

Figure = tuple[str, dict[str, str], float]


def figures(settings: Settings) -> Iterator[Figure]:
    """Yield each figure: its name, its labels, its value. What does not answer is left out, and `_up` of it is 0."""
    release = ROOT / "current"
    yield "airstrip_release", {"release": live(ROOT) or "none"}, 1
    yield "airstrip_release_since_seconds", {}, release.lstat().st_mtime if release.is_symlink() else 0
    yield "airstrip_healed_last_day", {}, len(done(time.time() - DAY_SECONDS))
    yield from _units(settings)
    yield from _checks()
    yield from _database(settings)
    yield from _nginx()


def _units(settings: Settings) -> Iterator[Figure]:
    for each in properties([*chain(*settings.units)], UNIT):
        labels = {"unit": each["Id"], "component": kind(each["Id"])}
        yield "airstrip_unit_up", labels, each["ActiveState"] == "active"
        for name, said, divisor in (
            ("airstrip_unit_memory_bytes", "MemoryCurrent", 1),
            ("airstrip_unit_cpu_seconds_total", "CPUUsageNSec", 10**9),
            ("airstrip_unit_restarts_total", "NRestarts", 1),
        ):
            if each[said].isdecimal() and int(each[said]) < 2**63:
                yield name, labels, int(each[said]) / divisor


def _checks() -> Iterator[Figure]:
    looked = json.loads(LOOKED.read_text())["looked"] if LOOKED.exists() else {}
    for name, found in looked.items():
        yield "airstrip_check_ok", {"check": name}, found["ok"]
        yield "airstrip_check_age_seconds", {"check": name}, time.time() - found["at"]


def _database(settings: Settings) -> Iterator[Figure]:
    try:
        rows = ask(QUERY, settings.database)
    except NoDatabase:
        rows = []
    yield "postgresql_up", {}, bool(rows)
    for name, labels, value in rows:
        yield name, json.loads(labels), float(value)


def _nginx() -> Iterator[Figure]:
    try:
        said = urllib.request.urlopen(NGINX, timeout=ANSWER_SECONDS).read().decode()
    except OSError:
        said = ""
    yield "nginx_up", {}, bool(said)
    if said:
        states = re.findall(r"(Active connections|Reading|Writing|Waiting): (\d+)", said)
        yield from (("nginx_connections", {"state": state.split()[0].lower()}, float(count)) for state, count in states)
        yield "nginx_requests_total", {}, float(re.findall(r"\d+ \d+ (\d+)", said)[0])


def text(found: Iterator[Figure]) -> str:
    """Return figures as Prometheus reads them: those of one name together, under their type."""
    named: dict[str, list[str]] = {}
    for name, labels, value in found:
        inner = ",".join(f'{key}="{escaped(str(of))}"' for key, of in labels.items())
        named.setdefault(name, []).append(f"{name}{{{inner}}} {float(value)!r}")
    return "".join(
        f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}\n" + "\n".join(lines) + "\n"
        for name, lines in named.items()
    )


def escaped(text: str) -> str:
    """Return a label's value as Prometheus wants it."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def tell(settings: Settings) -> None:
    """Write them for the node exporter, whole or not at all."""
    write(FILE, text(figures(settings)))
    FILE.chmod(0o644)
