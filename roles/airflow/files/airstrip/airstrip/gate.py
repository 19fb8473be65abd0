"""Examine a release with the packages, variables and connections of this host, before it goes live.

`python -m airstrip.gate FOLDER` prints a JSON object: `dags` (DAG id to file), `problems` (a line each) and `files`
(file to `seconds` and `mb`). With _AIRFLOW_PROCESS_CONTEXT=server a DAG file may ask the database for variables and
connections, as it may in the DAG processor; AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT says how many seconds it may take.

`python -m airstrip.gate --offline SOURCE` does the same with a folder or a checkout on a laptop, for people to read.
What only the host knows is not asked there: its connections, pools and unfinished runs.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from airflow.configuration import conf, get_custom_secret_backend
from airflow.models import Connection, Pool
from airflow.utils.file import list_py_file_paths
from airflow.utils.session import create_session
from sqlalchemy import select

from airstrip import live
from airstrip.dag_file import Finding, place, use_plugins
from airstrip.examination import examined
from airstrip.release.pack import pack
from airstrip.release.tree import Refused
from airstrip.release.unpack import unpack


def examine(release: Path, megabytes: int, offline: bool = False) -> dict[str, Any]:
    """Import every DAG file of a release, and return `dags`, `problems` and `files`."""
    for option in ("secrets_backend", "secrets_backend_kwargs"):
        # What the DAG processor asks for a file's variables is the backend of the tasks.
        os.environ[f"AIRFLOW__SECRETS__{option.removeprefix('secrets_').upper()}"] = conf.get("workers", option) or ""
    # A problem's line may be many calls above the error.
    os.environ["AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACK_DEPTH"] = "50"
    use_plugins(release)
    files = sorted([*list_py_file_paths(release), *map(str, (release / "plugins").rglob("*.py"))])
    findings: dict[str, Finding] = {}
    took: dict[str, dict[str, float]] = {}
    for process, finding in examined(release, files, conf.getfloat("core", "dagbag_import_timeout"), megabytes):
        findings[process.name] = finding
        took[process.name] = {"seconds": round(time.monotonic() - process.began, 2), "mb": round(process.peak_mb)}
    problems = [problem for name in sorted(findings) for problem in findings[name].problems]
    owners = defaultdict(list)
    for name in sorted(findings):
        for dag in findings[name].dags:
            owners[dag].append(name)
    for dag, several in owners.items():
        if len(several) > 1:
            places = " and ".join(place(release, release / name, dag) for name in several)
            problems.append(f"{places}: both define the DAG {dag}; rename one of them")
    if not problems and not offline:
        problems = absent(findings.values()) + live.stranded(list(owners))
    return {"dags": {dag: several[0] for dag, several in owners.items()}, "problems": problems, "files": took}


def absent(findings: Iterable[Finding]) -> list[str]:
    """Return a line for each connection and pool that the files name and this host has not."""
    with create_session() as session:
        connections = set(session.scalars(select(Connection.conn_id)))
        pools = set(session.scalars(select(Pool.pool)))
    backend = get_custom_secret_backend(worker_mode=True)
    lines = []
    for finding in findings:
        for identifier, where in finding.connections.items():
            known = identifier in connections or f"AIRFLOW_CONN_{identifier.upper()}" in os.environ
            if not known and not (backend and backend.get_connection(identifier)):
                lines.append(
                    f"{where}: there is no connection {identifier}; set airflow_connections.{identifier} and run "
                    f"site.yml --tags airflow, or: sudo airflow connections add {identifier}"
                )
        for pool, where in finding.pools.items():
            if pool not in pools:
                lines.append(f"{where}: there is no pool {pool}; make it: sudo airflow pools set {pool} SLOTS NOTE")
    return lines


def offline(source: Path, megabytes: int, most_mb: int) -> int:
    """Examine what would be shipped from a folder; print it for people, and return the exit code."""
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryFile() as archive:
        release = Path(temporary).resolve() / "release"
        try:
            pack(source, archive, getpass.getuser(), most_mb)
            archive.seek(0)
            unpack(archive, release, most_mb)
        except Refused as error:
            print(error)
            return 1
        answer = examine(release, megabytes, offline=True)
    for name, took in sorted(answer["files"].items()):
        print(f"{name}: {took['seconds']} s, {took['mb']} MB")
    print("\n".join(answer["problems"] or [f"{len(answer['dags'])} DAGs would go live"]))
    return bool(answer["problems"])


def main() -> int:
    """Examine what is named; return the exit code."""
    parser = argparse.ArgumentParser(prog="airstrip.gate", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--offline", action="store_true", help="a folder that was not shipped yet")
    parser.add_argument("--megabytes", type=int, default=500, help="that one file may take")
    parser.add_argument("--most-mb", type=int, default=500, help="that a release may have")
    given = parser.parse_args()
    if given.offline:
        return offline(given.folder.resolve(), given.megabytes, given.most_mb)
    print(json.dumps(examine(given.folder.resolve(), given.megabytes)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
