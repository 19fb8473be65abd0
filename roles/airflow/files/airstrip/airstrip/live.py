"""What the metadata database knows of releases, without the seconds that importing Airflow takes.

`python -m airstrip.live wait FOLDER SECONDS` waits until Airflow has every DAG of the release in FOLDER, and prints
those that it does not have by then, a line each. `python -m airstrip.live needed` prints the releases that unfinished
runs began with, and `python -m airstrip.live stranded FOLDER` the DAGs that go on and are not in the release, a line
each. The database's address is read from $CREDENTIALS_DIRECTORY/database_url.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from airstrip import database
from airstrip.release.folder import BUNDLE, manifest

# A scheduler may have put off a task for long, so each unfinished run counts, and each task of a finished one that
# was cleared.
NEEDED = """
SELECT DISTINCT bundle_version FROM dag_run WHERE bundle_version IS NOT NULL AND (
    state IN ('queued', 'running') OR EXISTS (
        SELECT 1 FROM task_instance WHERE task_instance.dag_id = dag_run.dag_id
        AND task_instance.run_id = dag_run.run_id AND task_instance.state IN ('scheduled', 'queued', 'running',
        'restarting', 'deferred', 'up_for_retry', 'up_for_reschedule')))
"""
# The path tells what Airflow has really read: a file that waited in the DAG processor's queue since before the switch
# is read from the old release and noted with the new version.
LIVE = "SELECT dag_id FROM dag WHERE bundle_version = %s AND fileloc LIKE %s AND NOT is_stale"

UNFINISHED = """
SELECT dag_id || ' (' || count(*) || ')' FROM dag_run JOIN dag USING (dag_id)
WHERE bundle_name = %s AND NOT is_stale AND NOT is_paused AND state IN ('queued', 'running') AND NOT dag_id = ANY(%s)
GROUP BY dag_id
"""


def connect() -> Any:
    """Connect with autocommit."""
    connection = database.connect()
    connection.autocommit = True
    return connection


def rows(connection: Any, query: str, *values: Any) -> set[str]:
    """Return the first column of a query."""
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        return {row[0] for row in cursor}


def needed() -> set[str]:
    """Return the releases that a run still needs."""
    return rows(connect(), NEEDED)


def stranded(dags: list[str]) -> list[str]:
    """Return a line for each DAG that is not among these but has unfinished runs: nobody would schedule them."""
    return [
        f"there is no {dag.partition(' ')[0]} any more, and runs of it go on {dag.partition(' ')[2]}: wait for them, "
        "pause it, or end them in the user interface"
        for dag in sorted(rows(connect(), UNFINISHED, BUNDLE, dags))
    ]


def missing(folder: Path, seconds: float) -> dict[str, str]:
    """Wait until Airflow has every DAG of the release; return those still missing (id to file) when time is up."""
    root, release = folder.parent.parent, folder.name
    dags = manifest(root, release)["dags"]
    connection, deadline = connect(), time.monotonic() + seconds
    while True:
        live = rows(connection, LIVE, release, f"{folder}/%")
        left = {dag: file for dag, file in dags.items() if dag not in live}
        if not left or time.monotonic() > deadline:
            return left
        for file in set(left.values()):
            refresh(folder / file)
        time.sleep(0.1)


def refresh(file: Path) -> None:
    """Have the DAG processor read a file again: it does so when the file is newer than its last look."""
    if time.time() - file.stat().st_mtime > 1:
        os.utime(file)


if __name__ == "__main__":
    if sys.argv[1] == "needed":
        print("\n".join(needed()))
    elif sys.argv[1] == "stranded":
        folder = Path(sys.argv[2])
        print("\n".join(stranded(list(manifest(folder.parent.parent, folder.name)["dags"]))))
    else:
        print("\n".join(missing(Path(sys.argv[2]), float(sys.argv[3]))))
