"""What all files of a release say together, and whether this host has what they name."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from airflow.configuration import conf, get_custom_secret_backend
from airflow.models import Connection, Pool
from airflow.utils import file as airflow_files
from airflow.utils.session import create_session
from sqlalchemy import select

from airstrip import live
from airstrip.gate.dag_file import Finding, place, use_plugins
from airstrip.gate.process import examined
from airstrip.release import folder


def examine(release: Path, megabytes: int, offline: bool = False) -> dict[str, Any]:
    """Import every DAG file of a release, and return `dags`, `problems` and `files`."""
    for option in ("secrets_backend", "secrets_backend_kwargs"):
        # The DAG processor reads a file's variables from the tasks' backend.
        os.environ[f"AIRFLOW__SECRETS__{option.removeprefix('secrets_').upper()}"] = conf.get("workers", option) or ""
    # A problem's line may be many calls above the error.
    os.environ["AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACK_DEPTH"] = "50"
    use_plugins(release)
    files = sorted({*dag_files(release), *map(str, (release / "plugins").rglob("*.py"))})
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


def dag_files(release: Path) -> list[str]:
    """Return the files that the DAG processor would read."""
    if hasattr(airflow_files, "list_py_file_paths"):
        return airflow_files.list_py_file_paths(release)
    # Airflow 3.4 asks its importers, and names what each found: a member of an archive is below the archive.
    from airflow.dag_processing.bundles.local import LocalDagBundle
    from airflow.sdk.importers import get_importer_registry

    bundle = LocalDagBundle(name=folder.BUNDLE, path=str(release))
    found = get_importer_registry(folder.BUNDLE).list_dag_definitions(bundle)
    places = [release / getattr(item, "source_reference", repr(item)) for _, item in found]
    return [str(airflow_files.find_enclosing_file(place)) for place in places]


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
