"""Runs of the daily report: days for them, what the warehouse holds of a day, and parts that refuse."""

from __future__ import annotations

import csv
import io
from datetime import date, timedelta

from lab import services
from lab.shop import seed
from tests.e2e.runs import TODAY, instances

DAG = "daily_report"
KEPT = "day, channel, sale_id, to_char(sold_at, 'YYYY-MM-DD HH24:MI:SS'), country, currency, amount, amount_eur, status"


def like(turn: int, last: int) -> date:
    """Return a day like one of the three, that no other test asks for."""
    return next(day for day in (TODAY - timedelta(days=last + past) for past in range(3)) if seed.turn(day) == turn)


def sales(server, *days: date) -> list[tuple[str, ...]]:
    """What the warehouse holds of some days."""
    wanted = ", ".join(f"'{day}'" for day in days)
    query = f"copy (select {KEPT} from sales where day in ({wanted})) to stdout csv"
    answer = server.sql(query, "warehouse")
    return sorted(tuple(row) for row in csv.reader(io.StringIO(answer)))


def failed(server, api, run: str) -> dict[str, int]:
    """The failed tasks of a run, with their tries."""
    found = instances(server, api, DAG, run)
    return {task["task_id"]: task["try_number"] for task in found if task["state"] == "failed"}


def fault(server, kind: str | None) -> None:
    """Make the API of exchange rates fail, or not."""
    answer = server.session().post(f"{services.shop.rates_endpoint(server.lab)}/control", json={"fault": kind})
    assert answer.status_code == 200


def log_says(server, run: str, task: str, words: str) -> None:
    """Check that a task's log has some words."""
    server.run(f"grep -rhE '{words}' '/var/log/airflow/dag_id={DAG}/run_id={run}/task_id={task}'")
