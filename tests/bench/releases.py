"""What an update and a restart take, and what the usual ways lose under the same load."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.installation import seconds
from tests.bench.stock import Stock, run_seconds
from tests.chart import draw
from tests.e2e import load, team
from tests.e2e.load import DENSE, Load
from tests.server import ROOT, Server, wait_until

SOURCE = ROOT / "build" / "bench" / "source"
DAG = """
import pendulum
from airflow.sdk import dag, task


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), is_paused_upon_creation=False, tags=["{tag}"])
def {name}():
    @task
    def step():
        return 1

    step()


{name}()
"""
TURNS = 2
# Twenty in all.
RESTARTS = 10
PACE_SECONDS = 10


def releases(server: Server) -> dict[str, list[float]]:
    """From the start of update.yml until the new version is live, in turns with rsync; then beside 200 files."""
    source = fresh()
    ship(server, source)
    stock = Stock(server)
    stock.install()
    stock.rsync(source)
    figures: dict[str, list[float]] = {}
    for turn in range(TURNS):
        for number in range(2):
            write(source, "one", f"v{turn}{number}")
            for name, value in ship(server, source).items():
                figures.setdefault(f"update_{name}_s", []).append(value)
            figures.setdefault("update_noop_s", []).append(seconds(lambda: ship(server, source)))
            figures.setdefault("rollback_s", []).append(seconds(lambda: server.play("rollback.yml")))
        stock.on()
        stock.wait_for_dag("one")
        for number in range(2):
            figures.setdefault("rsync_live_s", []).append(rsync_seconds(stock, source, f"r{turn}{number}"))
        stock.off()
    figures |= trees(server, source)
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
    began = server.run("date '+%F %T'").strip()
    for _ in range(10):
        run_seconds(server, "one")
    logs = f"find /var/log/airflow/dag_id=one -name '*.log' -newermt '{began}'"
    times = server.run(f"{logs} -exec grep -ho 'bundle_prepare_ms\":[0-9]*' {{}} +")
    figures["bundle_prepare_ms"] = [float(word) for word in re.findall(r":(\d+)", times)]
    return figures


def trees(server: Server, source: Path) -> dict[str, list[float]]:
    """Fifty new DAG files, and Airflow's own parser over them; ten thousand files of 30 kB; a push by a deploy key."""
    for number in range(50):
        write(source, f"new{number}", "v")
    fifty = ship(server, source)
    parser = seconds(lambda: server.run("airflow dag-processor --num-runs 1 > /dev/null 2>&1"))
    for number in range(50):
        (source / "dags" / f"new{number}.py").unlink()
    ship(server, source)
    data = source / "etl" / "data"
    data.mkdir()
    for number in range(10_000):
        (data / f"{number}.bin").write_bytes(os.urandom(30_000))
    many = ship(server, source)["live"]
    shutil.rmtree(data)
    ship(server, source)
    repository, key = team.repository(source.parent / "team"), team.key(source.parent)
    team.list_keys(server, ci=team.public(key))
    pushes = []
    for number in range(2):
        write(repository, "pushed", f"p{number}")
        team.commit(repository)
        pushes.append(seconds(lambda: team.deploy(server, repository, key).check_returncode()))
    team.list_keys(server)
    ship(server, source)
    fifties = {"update_50_files_s": [fifty["live"]], "gate_50_files_s": [fifty["gate"]], "parser_50_files_s": [parser]}
    return {**fifties, "update_10000_files_s": [many], "push_live_s": pushes}


def restarts(server: Server) -> dict[str, list[float]]:
    """Twenty restarts of everything while tasks of 1 to 20 s run, in turns with stock Airflow, restarted alike."""
    source = load.source(empty())
    ship(server, source)
    stock = Stock(server)
    stock.install()
    stock.rsync(source)
    ours, theirs, pauses = [], [], {}
    for _ in range(TURNS):
        figures, pauses["airflow-restart"] = loaded(server, lambda: server.run("airflow-restart"))
        ours.append(figures)
        stock.on()
        stock.wait_for_dag("walkers")
        figures, pauses["systemctl restart"] = loaded(stock, stock.restart)
        theirs.append(figures)
        stock.off()
    panels = {"Airstrip": "airflow-restart", "stock Airflow": "systemctl restart"}
    drawn = {title: {command: pauses[command]} for title, command in panels.items()}
    draw("restarts", drawn, "runs started, two a second, while everything restarts ten times", "seconds until done")
    return {**total("restart", ours), **total("stock_restart", theirs)}


def total(side: str, turns: list[dict[str, float]]) -> dict[str, list[float]]:
    """What all turns counted, and the longest of their pauses."""
    return {f"{side}_{name}": [(max if name == "pause_s" else sum)(turn[name] for turn in turns)] for name in turns[0]}


def loaded(server: Server, restart: Callable[[], object]) -> tuple[dict[str, float], list[float]]:
    """Restart under load; return what the load saw, and the seconds that each pulse took."""
    # So many runs as four workers keep up with.
    with Load(server, seconds=(1, 5, 20), every=10, **DENSE) as run:
        for _ in range(RESTARTS):
            began = time.monotonic()
            restart()
            server.wait_until_healthy()
            # Both sides at the same pace.
            time.sleep(max(0, PACE_SECONDS - (time.monotonic() - began)))
    run.wait(1800)
    figures = {
        "lost": len([task for task in run.lost() if "|success|" not in task]),
        "tried_again": len([task for task in run.lost() if "|success|" in task]),
        "tasks": run.tasks(),
        "failed_requests": sum(run.failed_requests.values()),
        "requests": sum(run.requests.values()),
        "pause_s": max(run.delays()),
    }
    return figures, run.delays()


def rsync_seconds(stock: Stock, source: Path, tag: str) -> float:
    """Seconds from the start of rsync until the change that it brings is live."""
    write(source, "one", tag)
    start = stock.rsync(source)
    query = f"SELECT count(*) FROM dag_tag WHERE name = '{tag}'"
    wait_until(lambda: stock.sql(query) == "1", 300, f"{tag} is not live")
    return time.monotonic() - start


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
    shutil.rmtree(SOURCE.parent, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    return SOURCE


def fresh() -> Path:
    """A source with the project's library and one small DAG."""
    source = empty()
    (source / "dags").mkdir()
    shutil.copytree(ROOT / "etl", source / "etl")
    write(source, "one", "v")
    return source
