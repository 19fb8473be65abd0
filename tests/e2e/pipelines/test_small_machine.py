"""All that a machine of 2 GiB without swap may have to do at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from lab import instance
from lab.settings import BUCKET
from lab.shop import database
from tests.e2e.runs import TODAY, pause, start, unpause, wait, wait_for_task

DAYS = {"twitter": TODAY - timedelta(days=61), "daily_report": TODAY - timedelta(days=62)}


def test_both_pipelines_an_update_and_a_restart_at_once_fit_in_memory(server, ship):
    machine = server.instance["InstanceId"]
    assert server.instance["InstanceType"] in {"t3.small", "t4g.small"}
    database.deliver(server.lab, BUCKET, DAYS["daily_report"])
    before = instance.killed_for_memory(server.lab, machine)
    for dag in DAYS:
        unpause(server, server.logged_in, dag)
    runs = {dag: start(server, server.logged_in, dag, day) for dag, day in DAYS.items()}
    # The rest starts now; "running" may be over before anybody looks.
    wait_for_task(server, server.logged_in, "twitter", runs["twitter"], "day_has_settled", "success")
    with ThreadPoolExecutor() as pool:
        restart = pool.submit(server.run, "airflow-restart")
        ship(mark="NUMBER = 'beside everything'\n")
        restart.result()
    for dag, run in runs.items():
        wait(server, server.logged_in, dag, run, "success")
    server.wait_until_healthy()
    for dag in DAYS:
        pause(server, server.logged_in, dag)
    assert instance.killed_for_memory(server.lab, machine) == before
