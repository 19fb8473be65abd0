"""How long scheduling stops when a scheduler is killed, when PostgreSQL comes back, and over a reboot."""

from __future__ import annotations

import time

from tests.bench.releases import empty, ship
from tests.bench.stock import run_seconds
from tests.e2e import load
from tests.e2e.load import DENSE, Load
from tests.server import Server, wait_until

TURNS = 1
DATABASE_AWAY_SECONDS = 20
BOOTED = "systemctl show -p UserspaceTimestampMonotonic"


def faults(server: Server) -> dict[str, list[float]]:
    """Each with a task of 25 s and a longer one running."""
    ship(server, load.source(empty()))
    found: dict[str, list[float]] = {"scheduler_kill_s": [], "database_back_s": [], "reboot_s": []}
    for _ in range(TURNS):
        with Load(server, seconds=(25,), every=1000, **DENSE) as run, run.held():
            found["scheduler_kill_s"].append(
                seconds_until_it_schedules(run, "systemctl kill -s KILL 'airflow-scheduler@*'")
            )
            server.run(f"systemctl stop postgresql@17-main; sleep {DATABASE_AWAY_SECONDS}")
            found["database_back_s"].append(seconds_until_it_schedules(run, "systemctl start postgresql@17-main"))
        run.wait()
        with Load(server, seconds=(25,), every=1000, **DENSE) as run, run.held():
            before, began = server.run(BOOTED), time.monotonic()
            server.aws("ec2").reboot_instances(InstanceIds=[server.instance["InstanceId"]])
            wait_until(
                lambda known=before: server.run(BOOTED, check=False) not in {known, ""}, 300, "no boot", every=0.5
            )
            server.wait_until_healthy()
            found["reboot_s"].append(time.monotonic() - began)
        run.wait()
    run_seconds(server, "pulse")
    return found


def seconds_until_it_schedules(run: Load, command: str) -> float:
    """Do something to the host; return the seconds until a run that began after it has ended."""
    began = float(run.server.run(f"{command}; date +%s.%N"))
    query = (
        "SELECT extract(epoch FROM min(end_date)) FROM dag_run "
        f"WHERE dag_id = 'pulse' AND state = 'success' AND queued_at > to_timestamp({began})"
    )

    def ended() -> str:
        try:
            return run.server.sql(query)
        except AssertionError:
            return ""

    return float(wait_until(ended, 300, "nobody schedules", every=0.2)) - began
