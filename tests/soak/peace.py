"""Hours in which nothing happens: what each unit holds in memory, beside stock Airflow, and that nobody is told."""

from __future__ import annotations

import json
import secrets
import time

from lab.settings import BUCKET
from tests.bench.stock import HOME, Stock
from tests.bench.watch import NAME, told
from tests.chart import draw
from tests.server import Server
from tests.soak.machines import machine
from tests.soak.upgrades import ship

MINUTES = 60
# Ten tasks a minute.
DAG = """
from datetime import datetime
from airflow.sdk import dag, task

@dag(schedule="* * * * *", start_date=datetime(2026, 1, 1), catchup=False, is_paused_upon_creation=False)
def minute():
    @task
    def step(number):
        return number
    step.expand(number=list(range(10)))

minute()
"""
COUNTS = (
    "SELECT count(*) || ' tasks, ' || count(*) FILTER (WHERE state <> 'success') || ' failed' "
    "FROM task_instance WHERE dag_id = 'minute' AND state IN ('success', 'failed', 'up_for_retry')"
)
RESTARTS = "systemctl show -p NRestarts --value 'airflow-*' nginx 'postgresql@*' airstrip-heal"
# MB of each unit; what several processes share counts in parts.
MEMORY = r"""
for process in /proc/[0-9]*; do
  unit=$(sed -n 's/.*\/\([^/]*\)\.service.*/\1/p' $process/cgroup 2> /dev/null | head -1)
  held=$(sed -n 's/^Pss: *\([0-9]*\).*/\1/p' $process/smaps_rollup 2> /dev/null)
  [ "$unit" ] && [ "$held" ] && echo "$unit $held"
done | awk '{sub("@.*", "", $1); sum[$1] += $2} END {for (unit in sum) print unit, sum[unit] / 1024}'
"""
Curves = dict[str, list[float]]


def peace() -> None:
    """Ten tasks a minute, ours for an hour and then stock Airflow's; print figures and draw the memory of each unit."""
    with machine() as (server, source):
        (source / "dags" / "minute.py").write_text(DAG)
        watched = {"watch_mail_to": ["pager@lab.test"], "watch_name": NAME, "backup_bucket": BUCKET}
        server.play("site.yml", "-e", json.dumps({**watched, "metrics_password": secrets.token_hex(16)}))
        # That made the checkout's own DAGs live.
        ship(server, source)
        server.wait_until_healthy()
        time.sleep(120)
        before, restarts = told(server), restarted(server)
        ours = curves(server, "airflow-")
        print(f"peace: {server.sql(COUNTS)}, {restarted(server) - restarts} restarts, told {told(server) - before}")
        stock = Stock(server)
        stock.install()
        stock.run(f"tee {HOME}/dags/minute.py > /dev/null", stdin=DAG)
        stock.on()
        stock.wait_for_dag("minute")
        theirs = curves(stock, "stock-")
        print(f"peace, stock: {stock.sql(COUNTS)}")
        for name, curve in {**ours, **theirs}.items():
            print(f"{name}: {curve[0]:.0f} MB, at the end {curve[-1]:.0f} MB, {slope(curve):+.1f} MB an hour")
        draw("memory", {"Airstrip": named(ours), "stock Airflow": named(theirs)}, "minutes, ten tasks in each", "MB")


def restarted(server: Server) -> int:
    """How often systemd restarted a unit by itself."""
    return sum(map(int, server.run(RESTARTS).split()))


def curves(server: Server, prefix: str) -> Curves:
    """Return the MB of each unit, once a minute."""
    found: Curves = {}
    for _ in range(MINUTES):
        time.sleep(60)
        for line in server.run(MEMORY).splitlines():
            unit, held = line.split()
            if unit.startswith(prefix):
                found.setdefault(unit, []).append(float(held))
    return found


def slope(curve: list[float]) -> float:
    """Return by how much it grows an hour, of its second half: what is needed once is there by then."""
    half = curve[len(curve) // 2 :]
    middle, mean = (len(half) - 1) / 2, sum(half) / len(half)
    spread = sum((minute - middle) ** 2 for minute in range(len(half)))
    return 60 * sum((minute - middle) * (held - mean) for minute, held in enumerate(half)) / spread


def named(curves: Curves) -> Curves:
    """Name each by its component, the largest first."""
    return {unit.partition("-")[2]: curves[unit] for unit in sorted(curves, key=lambda unit: -curves[unit][-1])}
