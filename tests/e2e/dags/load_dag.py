"""DAGs whose tasks return the release that they run on, for the tests of updates and restarts."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import dag, task

import etl

START = pendulum.datetime(2026, 1, 1)


def releases() -> str:
    """The release of this file and that of the library."""
    return f"{Path(__file__).parents[1].name} {Path(etl.__file__).parents[1].name}"


@task
def nap(seconds: float) -> str:
    time.sleep(seconds)
    return releases()


@dag(schedule=None, start_date=START, is_paused_upon_creation=False, max_active_tasks=100, params={"seconds": 3})
def sleepers():
    """Eight mapped tasks, twice as many as run at once, then one that comes late."""

    @task
    def lengths(params=None) -> list[float]:
        return [params["seconds"]] * 8

    @task
    def last(values) -> str:
        return releases()

    last(nap.expand(seconds=lengths()))


@dag(schedule=None, start_date=START, is_paused_upon_creation=False, params={"gate": "/run/gate"})
def holders():
    """A task that waits for a file, and one after it."""

    @task(execution_timeout=timedelta(minutes=30))
    def hold(params=None) -> str:
        print("Waits for the gate")
        while not Path(params["gate"]).exists():
            time.sleep(0.2)
        return releases()

    @task
    def last() -> str:
        return releases()

    @task
    def prefix() -> str:
        return str(Path(sys.prefix).resolve())

    hold() >> [last(), prefix()]


@dag(schedule=None, start_date=START, is_paused_upon_creation=False, params={"seconds": 1})
def walkers():
    """A Python task and a Bash task, one after the other, then two more."""
    bash = BashOperator(task_id="bash", bash_command="sleep {{ params.seconds }}", do_xcom_push=False)

    @task
    def first(params=None) -> str:
        time.sleep(params["seconds"])
        return releases()

    @task
    def last() -> str:
        return releases()

    @task
    def prefix() -> str:
        return str(Path(sys.prefix).resolve())

    first() >> bash >> [last(), prefix()]


@dag(schedule=None, start_date=START, is_paused_upon_creation=False, max_active_runs=100)
def pulse():
    """Nothing but work for the scheduler itself."""
    EmptyOperator(task_id="beat")


sleepers()
holders()
walkers()
pulse()
