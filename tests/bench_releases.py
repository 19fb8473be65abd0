"""What an update and a restart take, and what the usual ways lose under the same load."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from lab import __main__ as commands
from tests.e2e import load
from tests.e2e.conftest import ROOT, Server
from tests.e2e.load import Load

SOURCE = ROOT / "build" / "bench"
DAG = """
import pendulum
from airflow.sdk import dag, task


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), tags=["{tag}"])
def {name}():
    @task
    def step():
        return 1

    step()


{name}()
"""
# Airflow's own defaults and a folder that is written to in place.
PLAIN = {
    "core": {"executor": "LocalExecutor"},
    "dag_processor": {
        "dag_bundle_config_list": json.dumps(
            [
                {
                    "name": "airstrip",
                    "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
                    "kwargs": {"path": "/srv/plain"},
                }
            ]
        ),
        "bundle_refresh_check_interval": 5,
        "min_file_process_interval": 30,
    },
    "workers": {"min_heartbeat_interval": 5, "max_failed_heartbeats": 3, "execution_api_retries": 5},
}
# What systemd does where a unit says nothing, as in the units that Airflow publishes.
UNITS = "[Service]\nKillMode=control-group\nTimeoutStopSec=90\n"
ROUNDS = 20


def releases(server: Server) -> dict[str, float]:
    """From the start of update.yml until the new version is live, for one and for two hundred files."""
    source = fresh()
    ship(server, source)
    figures: dict[str, list[float]] = {}
    for number in range(5):
        write(source, "one", f"v{number}")
        for name, value in ship(server, source).items():
            figures.setdefault(f"update_{name}_s", []).append(value)
        figures.setdefault("update_noop_s", []).append(elapsed(lambda: ship(server, source)))
        figures.setdefault("rollback_s", []).append(until_noted(server, lambda: server.play("rollback.yml")))
    for number in range(200):
        write(source, f"many{number}", "v")
    ship(server, source)
    for number in range(2):
        write(source, "one", f"w{number}")
        for name, value in ship(server, source).items():
            figures.setdefault(f"update_{name}_200_s", []).append(value)
    for number in range(200):
        (source / "dags" / f"many{number}.py").unlink()
    ship(server, source)
    for _ in range(20):
        server.play("run.yml", "-e", "dag=one")
    times = server.run("journalctl -u 'airflow-scheduler@*' -o cat --since -10min | grep -o 'bundle_prepare_ms=[0-9]*'")
    figures["bundle_prepare_ms"] = [float(word) for word in re.findall(r"=(\d+)", times)]
    return {name: round(statistics.median(values), 2) for name, values in figures.items()}


def restarts(server: Server) -> dict[str, float]:
    """Twenty restarts of everything while tasks of 1 to 120 s run."""
    ship(server, load.source(empty()))
    # So many runs as four workers keep up with.
    with Load(server, seconds=(1, 5, 20, 60, 120), every=30) as run:
        for _ in range(ROUNDS):
            server.run("airflow-restart")
    return {"restarts": ROUNDS, **told(run, "restart")}


def control(server: Server) -> dict[str, float]:
    """Three updates and two restarts the usual way, under such a load; and how long rsync's change takes to be live."""
    source = load.source(empty())
    plain(server, source)
    with Load(server, seconds=(1, 5, 20), every=3) as run:
        for number in range(3):
            (source / "etl" / "__init__.py").write_text(f'"""Version {number}."""\n')
            send(server, source)
            time.sleep(10)
        for _ in range(2):
            server.run("systemctl restart airflow-{api-server@a,scheduler@a,dag-processor,triggerer}")
            time.sleep(10)
    return told(run, "plain_restart") | {"rsync_live_s": rsync(server, source)}


def told(run: Load, prefix: str) -> dict[str, float]:
    """What the load saw."""
    run.wait(1800)
    delays = run.delays()
    return {
        f"{prefix}_lost_tasks": len(run.lost()),
        f"{prefix}_tasks": run.results(),
        f"{prefix}_failed_requests": sum(run.failed_requests.values()),
        f"{prefix}_requests": sum(run.requests.values()),
        f"{prefix}_scheduling_p95_s": round(delays[int(0.95 * len(delays))], 2),
        f"{prefix}_scheduling_max_s": round(delays[-1], 2),
    }


def plain(server: Server, source: Path) -> None:
    """The usual way: stock executor and settings, a folder written to in place, systemd's own manner of stopping."""
    server.run("apt-get install -qq -y rsync >/dev/null; mkdir -p /srv/plain; chgrp airflow /srv/plain")
    send(server, source)
    for unit in ("api-server@", "scheduler@", "dag-processor", "triggerer"):
        folder = f"/etc/systemd/system/airflow-{unit}.service.d"
        # The stock executor does not tell systemd that it is ready.
        text = UNITS + ("Type=exec\n" if unit == "scheduler@" else "")
        server.run(f"mkdir -p {folder}; printf '{text}' > {folder}/zz-plain.conf")
    for other in ("api-server", "scheduler"):
        server.run(f"systemctl disable --now airflow-{other}@b; systemctl enable --now airflow-{other}@a")
    server.play("site.yml", "--tags", "airflow", "-e", json.dumps({"airflow_configuration": PLAIN}))
    server.run("systemctl daemon-reload; systemctl restart airflow.target")
    server.wait_until_healthy()
    time.sleep(60)


def rsync(server: Server, source: Path) -> float:
    """Seconds until a change is live that rsync brings, a minute after it was made as in a checkout of CI."""
    times = []
    for number in range(3):
        write(source, "late", f"r{number}")
        time.sleep(60)
        start = time.monotonic()
        send(server, source)
        query = f"SELECT 1 FROM dag_tag WHERE name = 'r{number}'"
        while server.run(f'runuser -u postgres -- psql -Atc "{query}" airflow') != "1\n":
            time.sleep(0.5)
        times.append(time.monotonic() - start)
    return round(statistics.median(times), 1)


def send(server: Server, source: Path) -> None:
    """`rsync -a` into the folder of the DAGs: through a folder of the host, since the lab has one network."""
    (source / ".airflowignore").write_text("etl/\n")
    pack = subprocess.run(["tar", "-C", source, "-c", "dags", "etl", ".airflowignore"], capture_output=True, check=True)
    unpack = "rm -rf /srv/incoming; mkdir /srv/incoming; tar -C /srv/incoming -x"
    receive = [*commands.ssh(server.lab, server.stack), "sudo", "bash", "-c", f"'{unpack}'"]
    subprocess.run(receive, input=pack.stdout, check=True)
    server.run("rsync -a --delete /srv/incoming/ /srv/plain/")


def ship(server: Server, source: Path) -> dict[str, float]:
    """Update; return the seconds of each part, and `live` from the start of the command until Airflow has all of it."""
    said = []
    live = until_noted(server, lambda: said.append(server.play("update.yml", "-e", f"release_source={source}").output))
    parts = re.findall(r"(stage|gate|switch|live) ([0-9.]+) s", " ".join(said[0].split()))
    figures = {"taken" if name == "live" else name: float(value) for name, value in parts}
    return {**figures, "live": live} if figures else {}


def until_noted(server: Server, action: Callable[[], object]) -> float:
    """Seconds from the start of a playbook to its line in the history, which it writes when the release is live."""
    start = time.time()
    action()
    return float(server.run("stat -c %.Y /srv/airflow/history")) - start


def write(source: Path, name: str, tag: str) -> None:
    (source / "dags" / f"{name}.py").write_text(DAG.format(name=name, tag=tag))


def empty() -> Path:
    shutil.rmtree(SOURCE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    return SOURCE


def fresh() -> Path:
    """A source with the project's library and one small DAG."""
    source = empty()
    (source / "dags").mkdir()
    shutil.copytree(ROOT / "etl", source / "etl")
    write(source, "one", "v")
    return source


def elapsed(action: Callable[[], object]) -> float:
    start = time.monotonic()
    action()
    return time.monotonic() - start
