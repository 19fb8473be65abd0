"""`airstrip why DAG RUN`: one page on a failed run."""

from __future__ import annotations

import argparse
import functools
import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airstrip.release.folder import ROOT, Releases
from airstrip.release.tree import diff, difference, summary
from airstrip.watch.done import done
from airstrip.watch.figures import EVERY_SECONDS, kept
from airstrip.watch.findings import Settings
from airstrip.watch.sessions import ask

LOGS = Path("/var/log/airflow")
LOG_LINES, DIFF_LINES = 15, 60
MARGIN_SECONDS = 600
# The newest failed run where none is named.
RUN = """
SELECT run_id, state, coalesce(bundle_version, ''), extract(epoch FROM coalesce(start_date, queued_at)),
  extract(epoch FROM coalesce(end_date, now())), run_type
FROM dag_run WHERE dag_id = :'dag' AND (run_id = :'run' OR :'run' = '' AND state = 'failed')
ORDER BY coalesce(end_date, now()) DESC LIMIT 1
"""
TASKS = """
SELECT task_id, map_index, state, try_number, max_tries + 1, coalesce(hostname, ''),
  extract(epoch FROM coalesce(end_date, now()))
FROM task_instance WHERE dag_id = :'dag' AND run_id = :'run' AND state IN ('failed', 'up_for_retry', 'running')
ORDER BY end_date LIMIT 5
"""
GOOD = """
SELECT run_id, coalesce(bundle_version, ''), extract(epoch FROM end_date) FROM dag_run
WHERE dag_id = :'dag' AND state = 'success' AND end_date < to_timestamp(:'ended') ORDER BY end_date DESC LIMIT 1
"""
# Of the last twenty runs those that failed at the same task.
SIMILAR = """
SELECT r.run_id, r.bundle_version FROM (
  SELECT * FROM dag_run WHERE dag_id = :'dag' AND run_id <> :'run' ORDER BY run_after DESC LIMIT 20) r
WHERE EXISTS (SELECT 1 FROM task_instance t WHERE t.dag_id = r.dag_id AND t.run_id = r.run_id
  AND t.task_id = :'task' AND t.state = 'failed') ORDER BY r.run_after DESC
"""


def page(settings: Settings, dag: str, run: str) -> Iterator[str]:
    """Yield the lines of the page. Raises SystemExit where there is no such run."""
    found = ask(RUN, settings.database, dag=dag, run=run)
    if not found:
        raise SystemExit(f"{dag} has no run {run}" if run else f"no run of {dag} failed")
    run, state, release, began, ended, kind = found[0]
    asked = functools.partial(ask, database=settings.database, dag=dag, run=run)
    yield f"{dag} {run}: {state}, {clock(began)} to {clock(ended)} UTC, {kind}, release {release or 'unknown'}"
    tasks = asked(TASKS)
    for task, mapped, what, number, most, host, at in tasks:
        name = task if mapped == "-1" else f"{task} [{mapped}]"
        yield f"task       {name} {what} in try {number} of {most} on {host or 'no host'}, {clock(at)}"
    good = asked(GOOD, ended=ended)
    if good:
        yield f"last good  {good[0][0]}, {clock(good[0][2])}, release {good[0][1] or 'unknown'}"
        yield from changes(Releases(ROOT), good[0][1], release)
    else:
        yield "last good  none is in the database"
    yield from meanwhile(float(began), float(ended))
    if tasks:
        task, mapped, _, number, *_ = tasks[0]
        again = asked(SIMILAR, task=task)
        said = ", ".join(f"{other} ({version or 'unknown release'})" for other, version in again[:5])
        yield f"similar    {len(again)} of the last 20 runs failed at {task}{': ' if said else ''}{said}"
        yield from log(dag, run, task, mapped, number)


def clock(moment: str | float) -> str:
    """Return a moment as people read it, in UTC."""
    return f"{datetime.fromtimestamp(float(moment), UTC):%Y-%m-%d %H:%M:%S}"


def changes(releases: Releases, good: str, bad: str) -> Iterator[str]:
    """Yield what the run's release changed since the last good run's."""
    if good == bad:
        yield "release    the same as then"
        return
    gone = [release or "unknown" for release in (good, bad) if release not in releases.all()]
    if gone:
        yield f"release    {', '.join(gone)} is not on this host any more"
        return
    old, new = releases.manifest(good), releases.manifest(bad)
    files = difference(old["files"], new["files"])
    yield f"release    {summary(files, 'file')}"
    yield f"packages   {summary(difference(*(packages(each['virtualenv']) for each in (old, new))), 'package')}"
    lines = [
        line
        for name in [*files["changed"], *files["added"], *files["removed"]]
        for line in diff(name, releases.folder(good), releases.folder(bad)).splitlines()
    ]
    yield from (f"           {line}" for line in lines[:DIFF_LINES])
    if len(lines) > DIFF_LINES:
        yield f"           and {len(lines) - DIFF_LINES} lines more"


def packages(virtualenv: str) -> dict[str, str]:
    """Return the version of each package of a virtualenv."""
    names = (path.stem for path in Path(virtualenv).glob("lib/python3*/site-packages/*.dist-info"))
    return dict(name.partition("-")[::2] for name in names)


def meanwhile(began: float, ended: float) -> Iterator[str]:
    """Yield what was replaced while it ran and shortly before, and the least memory that was free."""
    for each in done(began - MARGIN_SECONDS):
        if each["at"] <= ended + MARGIN_SECONDS:
            yield f"meanwhile  {clock(each['at'])} {each['unit']}: {each['what']}"
    near = [each for each in kept() if began - EVERY_SECONDS <= each["at"] <= ended + EVERY_SECONDS]
    if near:
        least = min(near, key=lambda each: each["free_mb"])
        most = max(least["units"], key=least["units"].get, default="")
        by = f", most in {most} with {least['units'][most]} MB" if most else ""
        yield f"memory     at least {least['free_mb']} MB free, at {clock(least['at'])}{by}"


def log(dag: str, run: str, task: str, mapped: str, number: str) -> Iterator[str]:
    """Yield the last lines of the try's log, as far as it is on this host."""
    folder = LOGS / f"dag_id={dag}" / f"run_id={run}" / f"task_id={task}"
    path = (folder / f"map_index={mapped}" if mapped != "-1" else folder) / f"attempt={number}.log"
    if not path.exists():
        yield f"log        is not on this host: /dags/{dag}/runs/{run}/tasks/{task} shows it"
        return
    yield f"log        {path}"
    for line in path.read_text(errors="replace").splitlines()[-LOG_LINES:]:
        yield f"           {readable(line)}"


def readable(line: str) -> str:
    """Return a line of a task's log, which is JSON, as people read it."""
    try:
        said: dict[str, Any] = json.loads(line)
    except ValueError:
        return line[:300]
    errors = [
        f"{each['exc_type']}: {each['exc_value']}" for each in said.get("error_detail") or [] if "exc_type" in each
    ]
    at = re.sub(r"\..*", "", str(said.get("timestamp", "")))[-8:]
    return " ".join([at, str(said.get("level", "")), str(said.get("event", "")), *errors]).strip()[:300]


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the page."""
    parser = argparse.ArgumentParser(prog="airstrip why", description="One page on a failed run")
    parser.add_argument("dag", metavar="DAG")
    parser.add_argument("run", metavar="RUN", nargs="?", default="", help="without, the newest that failed")
    given = parser.parse_args(arguments)
    print("\n".join(page(Settings.read(), given.dag, given.run)))
    return 0
