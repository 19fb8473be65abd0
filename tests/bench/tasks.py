"""How fast small tasks follow one another, and how many run at once, ours and stock Airflow in turns."""

from __future__ import annotations

import time

from tests.bench.installation import IDLE_SECONDS, PSS
from tests.bench.releases import empty, ship
from tests.bench.stock import Stock, run_seconds
from tests.server import Server

TURNS = 2
DAGS = '''"""Forty tasks in a chain, and a hundred side by side."""

import pendulum
from airflow.sdk import dag, task

START = pendulum.datetime(2026, 1, 1)


@dag(schedule=None, start_date=START, is_paused_upon_creation=False, tags=["bench"])
def chain40():
    @task
    def step(before=None):
        return 1

    last = None
    for _ in range(40):
        last = step(last)


@dag(schedule=None, start_date=START, is_paused_upon_creation=False, max_active_tasks=100, tags=["bench"])
def wide100():
    @task
    def step(number):
        return number

    step.expand(number=list(range(100)))


chain40()
wide100()
'''


def tasks(server: Server) -> dict[str, list[float]]:
    """In turns, so that a busy moment of the machine is not one side's alone."""
    source = empty()
    (source / "dags").mkdir()
    (source / "etl").mkdir()
    (source / "etl" / "__init__.py").touch()
    (source / "dags" / "bench_dag.py").write_text(DAGS)
    ship(server, source)
    stock = Stock(server)
    stock.install()
    stock.rsync(source)
    found: dict[str, list[float]] = {}
    for turn in range(TURNS):
        sides = [("", server, stock.off), ("_stock", stock, stock.on)]
        for suffix, side, on in sides if turn % 2 else reversed(sides):
            on()
            if side is stock:
                stock.wait_for_dag("wide100")
            time.sleep(10)
            found.setdefault(f"chain40{suffix}_s", []).append(run_seconds(side, "chain40"))
            found.setdefault(f"tasks_per_s{suffix}", []).append(100 / run_seconds(side, "wide100"))
    stock.off()
    for _ in range(10):
        run_seconds(server, "wide100")
    time.sleep(IDLE_SECONDS)
    return {**found, "pss_after_1000_tasks_mb": [float(server.run(PSS))]}
