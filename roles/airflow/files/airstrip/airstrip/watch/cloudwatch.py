"""Send CloudWatch a few of the metrics of this host that airstrip-heal writes for Prometheus."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3

FIGURES = Path("/run/airstrip-heal/airstrip.prom")
OLD_SECONDS = 300
# A figure's name and what its labels hold, the name that CloudWatch gets, its unit, and how many are made one.
TOLD = [
    ("airflow_tasks", 'state="running"', "TasksRunning", "Count", sum),
    ("airflow_tasks", 'state="queued"', "TasksQueued", "Count", sum),
    ("airflow_oldest_waiting_seconds", "", "OldestWaiting", "Seconds", max),
    ("airflow_runs_failed_last_hour", "", "RunsFailedLastHour", "Count", max),
    ("airflow_heartbeat_age_seconds", "", "OldestHeartbeat", "Seconds", max),
    ("airflow_import_errors", "", "ImportErrors", "Count", max),
    ("airstrip_check_ok", "", "ChecksFailed", "Count", lambda all_ok: sum(1 - ok for ok in all_ok)),
    ("postgresql_up", "", "DatabaseUp", "Count", max),
    ("postgresql_database_bytes", "", "DatabaseSize", "Bytes", sum),
]


def data(text: str, host: str) -> Iterator[dict[str, Any]]:
    """Yield what CloudWatch is told: of the figures those in TOLD that are there, and how full the disk is."""
    disk = shutil.disk_usage("/")
    figures = re.findall(r"(?m)^(\w+)\{(.*)\} (\S+)$", text)
    made = [("DiskUsed", "Percent", 100 * disk.used / disk.total)]
    for name, labels, told, unit, one in TOLD:
        values = [float(value) for each, with_labels, value in figures if each == name and labels in with_labels]
        if values:
            made.append((told, unit, float(one(values))))
    for told, unit, value in made:
        dimensions = [{"Name": "Host", "Value": host}]
        yield {"MetricName": told, "Dimensions": dimensions, "Unit": unit, "Value": value}


def main() -> None:
    """Tell it once. Raises SystemExit where nobody writes the figures any more."""
    if time.time() - FIGURES.stat().st_mtime > OLD_SECONDS:
        raise SystemExit("the figures are old: systemctl status airstrip-heal")
    told = list(data(FIGURES.read_text(), platform.node()))
    boto3.client("cloudwatch").put_metric_data(Namespace=os.environ["AIRSTRIP_NAMESPACE"], MetricData=told)


if __name__ == "__main__":
    main()
