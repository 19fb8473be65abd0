"""`make bench`: what the design buys, measured side by side on a machine of its own.

Prints a table and writes build/bench.json, one flat object, figure name to number. Groups:
tutorial (pip install and `airflow standalone`), install, memory, speed, releases, restarts, control; etl and report
need no machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Network

from lab import __main__ as commands
from lab.settings import Lab
from tests.bench_etl import etl, report
from tests.bench_releases import control, releases, restarts
from tests.e2e.conftest import ROOT, Server

RESULTS = ROOT / "build" / "bench.json"
PAIRS = 2
PSS = "cat /proc/[0-9]*/smaps_rollup 2>/dev/null | awk '/^Pss:/ {sum += $2} END {print sum / 1024}'"
IDLE_SECONDS = 75
STOCK = {
    "airflow_parallelism": 4,
    "airflow_scheduler_idle_sleep_time": 1,
    "airflow_task_heartbeat_interval": 5,
    "airflow_task_max_failed_heartbeats": 3,
    "airflow_execution_api_retries": 5,
    "airflow_configuration": {"database": {"sql_alchemy_pool_size": 5}},
}
TUNED = {"airflow_parallelism": 4}
DAGS = """
import pendulum
from airflow.sdk import dag, task


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), tags=["bench"], doc_md=__doc__)
def chain40():
    @task
    def step(before=None):
        return 1

    last = None
    for _ in range(40):
        last = step(last)


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), max_active_tasks=100, tags=["bench"], doc_md=__doc__)
def wide100():
    @task
    def step(number):
        return number

    step.expand(number=list(range(100)))


chain40()
wide100()
"""


def seconds(action: Callable[[], object]) -> float:
    start = time.monotonic()
    action()
    return round(time.monotonic() - start, 1)


def fresh(lab: Lab) -> Server:
    """A machine on which nothing was installed."""
    commands.down(lab)
    commands.up(lab)
    server = Server(lab, "airstrip")
    server.play("provision.yml")
    return server


def tutorial(server: Server) -> dict[str, float]:
    """The usual way: pip without pins, `airflow standalone` on SQLite."""
    server.run("apt-get update -qq && apt-get install -qq -y python3-venv >/dev/null")
    packages = "apache-airflow pandas s3fs tweepy"
    install = seconds(
        lambda: server.run(f"python3 -m venv /root/tutorial && /root/tutorial/bin/pip install -q {packages}")
    )
    server.run("systemd-run --quiet --setenv=AIRFLOW_HOME=/root/airflow --setenv=PATH=/root/tutorial/bin:/usr/bin:/bin"
               " --unit=tutorial /root/tutorial/bin/airflow standalone")  # fmt: skip
    time.sleep(IDLE_SECONDS + 45)
    return {"tutorial_install_s": install, "tutorial_idle_pss_mb": float(server.run(PSS))}


def install(server: Server) -> dict[str, float]:
    """From nothing, and again."""
    os.environ["ANSIBLE_CALLBACKS_ENABLED"] = "ansible.posix.profile_roles"
    figures: dict[str, float] = {}
    cold = {}
    figures["site_cold_s"] = seconds(lambda: cold.update(play=server.play("site.yml")))
    for role, spent in re.findall(r"(?m)^(base|postgresql|release|airflow|nginx) -+ ([0-9.]+)s", cold["play"].output):
        figures[f"site_cold_{role}_s"] = float(spent)
    again = []
    times = [seconds(lambda: again.append(server.play("site.yml"))) for _ in range(3)]
    del os.environ["ANSIBLE_CALLBACKS_ENABLED"]
    return figures | {
        "site_again_s": statistics.median(times),
        "site_again_changed": max(play.changed for play in again),
    }


def memory(server: Server) -> dict[str, float]:
    """Idle after a start: as shipped, without the frozen heap, and without the other settings too."""
    thawed = "Environment=PYTHONPATH="
    stock = (
        f"{thawed}\nUnsetEnvironment=MALLOC_ARENA_MAX\nEnvironment=AIRFLOW__CORE__PARALLELISM=32"
        "\nEnvironment=AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_SIZE=5 AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES=2"
    )
    figures = {}
    folder = "/run/systemd/system/airflow-.service.d"
    for name, text in {"idle_pss_mb": "", "idle_pss_thawed_mb": thawed, "idle_pss_stock_mb": stock}.items():
        server.run(
            f"mkdir -p {folder}; printf '[Service]\\n{text}\\n' > {folder}/zz-bench.conf; systemctl daemon-reload"
        )
        server.run("systemctl restart airflow.target")
        time.sleep(IDLE_SECONDS)
        figures[name] = float(server.run(PSS))
    server.run(f"rm {folder}/zz-bench.conf; systemctl daemon-reload; systemctl restart airflow.target")
    return figures


def speed(server: Server) -> dict[str, float]:
    """Forty small tasks in a chain and a hundred side by side, ours and stock settings in turns."""
    source = ROOT / "build" / "bench"
    shutil.rmtree(source, ignore_errors=True)
    (source / "dags").mkdir(parents=True)
    (source / "dags" / "bench_dag.py").write_text(DAGS)
    shutil.copytree(ROOT / "etl", source / "etl")
    found: dict[str, list[float]] = {}
    for _ in range(PAIRS):
        for suffix, settings in (("", TUNED), ("_stock", STOCK)):
            variables = json.dumps({**settings, "release_source": str(source)})
            server.play("site.yml", "--tags", "airflow,release", "-e", variables)
            time.sleep(10)
            found.setdefault(f"chain40{suffix}_s", []).append(run_seconds(server, "chain40"))
            found.setdefault(f"tasks_per_s{suffix}", []).append(100 / run_seconds(server, "wide100"))
    figures = {name: round(statistics.median(values), 2) for name, values in found.items()}
    server.play("site.yml", "--tags", "airflow,release", "-e", json.dumps({"release_source": str(source)}))
    run_seconds(server, "wide100")
    time.sleep(IDLE_SECONDS)
    return figures | {"pss_after_100_tasks_mb": float(server.run(PSS))}


def run_seconds(server: Server, dag: str) -> float:
    """Run a DAG; return the seconds from its first moment to its last, by Airflow's own clock."""
    server.play("run.yml", "-e", f"dag={dag}")
    query = (
        f"SELECT extract(epoch FROM end_date - start_date) FROM dag_run WHERE dag_id = '{dag}' ORDER BY id DESC LIMIT 1"
    )
    return float(server.run(f'runuser -u postgres -- psql -Atqc "{query}" airflow'))


def main(names: list[str]) -> None:
    """Measure the named groups, or all, and keep earlier figures of the others."""
    # The last leaves the server as it should not be.
    groups = {"tutorial": tutorial, "install": install, "memory": memory, "speed": speed, "releases": releases,
              "restarts": restarts, "control": control}  # fmt: skip
    local = {"etl": etl, "report": report}
    unknown = set(names) - set(groups) - set(local)
    if unknown:
        sys.exit(f"bench: no group {', '.join(unknown)}: NAME is one of {', '.join([*groups, *local])}")
    figures = json.loads(RESULTS.read_text()) if RESULTS.exists() and names else {}
    wanted = names or [*groups, *local]
    for name in local.keys() & set(wanted):
        figures |= local[name]()
    if set(wanted) - set(local):
        figures |= on_a_server(groups, wanted)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    for name, value in figures.items():
        print(f"{name:<28} {value:>10.2f}")


def on_a_server(groups: dict[str, Callable[[Server], dict[str, float]]], wanted: list[str]) -> dict[str, float]:
    """Measure the wanted groups on a machine of their own."""
    figures: dict[str, float] = {}
    lab = Lab("stripbnch", IPv4Network("10.203.2.0/24"))
    try:
        server = fresh(lab)
        if "tutorial" in wanted:
            figures |= tutorial(server)
            server = fresh(lab)
        if "install" not in wanted and wanted != ["tutorial"]:
            server.play("site.yml")
        for name in groups:
            if name in wanted and name != "tutorial":
                figures |= groups[name](server)
    finally:
        commands.down(lab)
    return figures


if __name__ == "__main__":
    main(sys.argv[1:])
