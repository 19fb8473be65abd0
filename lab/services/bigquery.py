"""The emulator of BigQuery, from a virtualenv of its own."""

from __future__ import annotations

from pathlib import Path

import requests

from lab.run import run, start, wait_for
from lab.services.server import accepts
from lab.settings import BIGQUERY_PORT, Lab, LabError

ROOT = Path(__file__).parents[2]
PROJECT = "lab"


def endpoint(lab: Lab) -> str:
    return f"http://{lab.gateway}:{BIGQUERY_PORT}"


def up(lab: Lab) -> None:
    """Start it, with the data set of the report."""
    python = ROOT / "build" / "bigquery" / "bin" / "python"
    if not python.exists():
        raise LabError("the emulator of BigQuery is missing: run `make build/bigquery/done`")
    # The emulator would fetch this from the internet when it starts.
    run(python, "-c", 'from duckdb_extensions import import_extension; import_extension("spatial")')
    pid_file = lab.state / "bigquery" / "process.pid"
    address = [f"--rest-host={lab.gateway}", f"--rest-port={BIGQUERY_PORT}", f"--grpc-host={lab.gateway}"]
    start(pid_file, [str(python.with_name("bqemulator")), "start", *address, "--log-level=warning"])

    wait_for("BigQuery", lambda: accepts(lab, BIGQUERY_PORT), 60, pid_file.with_suffix(".log"))
    project = f"{endpoint(lab)}/bigquery/v2/projects/{PROJECT}/datasets"
    reference = {"projectId": PROJECT, "datasetId": "report"}
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(project, json={"datasetReference": reference}, timeout=10)
    if answer.status_code not in (200, 409):
        raise LabError(f"BigQuery's emulator made no dataset: {answer.text[:500]}")
