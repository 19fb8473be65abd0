"""`airstrip status`: how the server is, on one screen."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from airstrip.release.folder import ROOT, Releases
from airstrip.systemd import properties
from airstrip.watch.alerts import lasted
from airstrip.watch.command import examine
from airstrip.watch.doctor import CHECKS, Doctor
from airstrip.watch.findings import PLAIN, RED, Settings

UNIT = ("Id", "ActiveState", "ActiveEnterTimestampMonotonic", "MemoryCurrent", "NRestarts")
# Each answer has a kind, a name and a text, so that one question gets all of them.
QUESTION = """
SELECT 'heartbeats', job_type, round(extract(epoch FROM now() - max(latest_heartbeat)))::text
FROM job WHERE state = 'running' GROUP BY 2
UNION ALL
SELECT 'tasks', state, count(*)::text FROM task_instance
WHERE state IN ('scheduled', 'queued', 'running', 'deferred', 'up_for_retry', 'restarting') GROUP BY 2
UNION ALL
SELECT 'waiting', 'oldest', round(extract(epoch FROM now()
  - min(CASE t.state WHEN 'queued' THEN queued_dttm ELSE scheduled_dttm END)))::text
FROM task_instance t JOIN dag_run r USING (dag_id, run_id) JOIN dag USING (dag_id)
WHERE t.state IN ('scheduled', 'queued') AND r.state = 'running' AND NOT is_paused HAVING count(*) > 0
UNION ALL
(SELECT 'failures', dag_id || ' ' || run_id, to_char(end_date AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
FROM dag_run WHERE state = 'failed' AND end_date > now() - interval '7 days' ORDER BY end_date DESC LIMIT 5)
UNION ALL
SELECT 'database', current_setting('server_version'), pg_size_pretty(pg_database_size(current_database()))
"""
# Of the checks those that say more than that all is well.
TELLING = ("disk", "trends", "certificate", "history", "backup", "drill", "spending", "pipelines", "healing")
BOLD = "\x1b[1m"


def gather(doctor: Doctor) -> dict[str, Any]:
    """Return everything that the screen shows; what cannot be asked is empty, and a check says why."""
    found: dict[str, dict[str, str]] = {kind: {} for kind in ("heartbeats", "tasks", "waiting", "failures", "database")}
    findings = examine(doctor, CHECKS)
    if all(each.ok for each in findings if each.name == "database"):
        for line in doctor.sql(QUESTION).splitlines():
            kind, _, rest = line.partition("|")
            name, _, said = rest.rpartition("|")
            found[kind][name] = said
    releases = Releases(ROOT)
    return {
        "at": time.time(),
        "host": platform.node(),
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "up_seconds": float(Path("/proc/uptime").read_text().split()[0]),
        "release": {"live": releases.live(), "before": releases.before(), "last": releases.history()[-1:]},
        "units": list(units(doctor.settings.units)),
        "checks": {each.name: {"ok": each.ok, "said": each.said, "fix": each.fix} for each in findings},
        **found,
    }


def units(pairs: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]]:
    """Yield each unit: of a pair those that run, or the first."""
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    for pair in pairs:
        states = properties(pair, UNIT)
        for each in [state for state in states if state["ActiveState"] != "inactive"] or states[:1]:
            memory, began = each["MemoryCurrent"], int(each["ActiveEnterTimestampMonotonic"] or 0) / 1e6
            yield {
                "unit": each["Id"],
                "state": each["ActiveState"],
                "seconds": round(now - began) if each["ActiveState"] == "active" else 0,
                "mb": int(memory) // 2**20 if memory.isdecimal() else None,
                "restarts": int(each["NRestarts"] or 0),
            }


def screen(found: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Yield the lines of the screen: a name, what is said, and whether that is well."""
    checks = found["checks"]
    airflow = checks["versions"]
    (server, size) = next(iter(found["database"].items()), ("does not answer", "of unknown size"))
    yield found["host"], f"{found['system']}, up {lasted(found['up_seconds'])}", True
    yield "versions", f"{airflow['said']}, PostgreSQL {server}, its database {size}", airflow["ok"]
    before = f", {found['release']['before']} before it" if found["release"]["before"] else ""
    yield "release", f"{found['release']['live'] or 'none'}{before}", bool(found["release"]["live"])
    for line in found["release"]["last"]:
        yield "", line, True
    for name, each in zip(["units"] + [""] * len(found["units"]), found["units"], strict=False):
        memory = f", {each['mb']} MB" if each["mb"] is not None else ""
        restarts = f", restarted {each['restarts']} times" if each["restarts"] else ""
        said = f"{each['unit']:<34} {each['state']} {lasted(each['seconds'])}{memory}{restarts}"
        yield name, said, each["state"] == "active"
    yield "heartbeats", ", ".join(f"{name} {age} s ago" for name, age in found["heartbeats"].items()), True
    waiting = f"; the oldest waits {lasted(float(age))}" if (age := found["waiting"].get("oldest")) else ""
    yield "tasks", (", ".join(f"{count} {name}" for name, count in found["tasks"].items()) or "none") + waiting, True
    for number, (run, at) in enumerate(found["failures"].items()):
        yield "failed" if not number else "", f"{at} UTC {run}", False
    for name, each in checks.items():
        if name in TELLING or not each["ok"]:
            yield name, each["said"] + (f"; fix: {each['fix']}" if each["fix"] else ""), each["ok"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Show it; return 1 where a check fails."""
    parser = argparse.ArgumentParser(prog="airstrip status", description="How the server is, on one screen")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(arguments)
    found = gather(Doctor(Settings.read()))
    if given.json:
        print(json.dumps(found))
    else:
        coloured = sys.stdout.isatty()
        for name, said, ok in screen(found):
            line = f"{name:<14} {said}"
            print(f"{BOLD if ok else RED}{name:<14}{PLAIN} {said if ok else RED + said + PLAIN}" if coloured else line)
    return 0 if all(each["ok"] for each in found["checks"].values()) else 1
