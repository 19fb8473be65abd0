"""Restarts under load: nothing is lost, and what a restart waits for is said."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.e2e.load import Load
from tests.server import wait_until


@pytest.mark.long
def test_a_security_update_restarts_what_it_replaced_and_loses_nothing(loaded):
    """With Python all of Airflow."""
    server = loaded
    python = "$(readlink --canonicalize /usr/bin/python3)"
    server.run(f"cp --archive {python} /usr/bin/new && mv /usr/bin/new {python}")
    with Load(server, poll=0.1) as run, run.held():
        server.run("systemctl is-enabled airstrip-refresh.timer && systemctl start airstrip-refresh")
        said = server.run("journalctl --unit=airstrip-refresh --output=cat")
        assert said.count("has taken over from") == 3 and said.count("restarted") == 2
    run.wait()
    assert run.failed_requests == {} and run.lost() == [] and run.mixed() == []
    server.play("check.yml")


def test_the_log_of_a_running_task_is_shown(loaded):
    with Load(loaded, every=1000) as run, run.held() as held:
        url = f"{loaded.url}/api/v2/dags/holders/dagRuns/{held}/taskInstances/hold/logs/1"
        wait_until(lambda: "Waits for the gate" in loaded.logged_in.get(url).text, 60, "the log is not shown")
    run.wait()
    assert run.lost() == []


def test_a_restart_waits_for_the_last_ones_tasks_and_counts_them(loaded):
    server = loaded
    restart = [*server.ssh, "sudo", "airflow-restart", "runner"]
    with Load(server, every=1000) as run:
        with run.held():
            server.run("airflow-restart runner")
            second = subprocess.Popen(restart, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            counted = second.stdout.readline()
        said, _ = second.communicate()
    assert re.search(r"airflow-runner@[ab].service: .* [1-9]\d* still run \(it is ended in \d+ s\)", counted)
    assert second.returncode == 0 and "has taken over from" in said
    run.wait()
    assert run.failed_requests == {} and run.lost() == []


def test_a_restart_ends_what_runs_longer_than_its_deadline(loaded):
    server = loaded
    unit = "/etc/systemd/system/airflow-runner@.service"
    deadline = "sed -i 's/--stop-seconds {}/--stop-seconds {}/' {} && systemctl daemon-reload && airflow-restart runner"
    server.run(deadline.format(600, 10, unit))
    try:
        with Load(server, every=1000) as run, run.held() as held:
            old, task = server.unit("runner"), f"task_instance WHERE run_id = '{held}' AND task_id = 'hold'"
            process = server.sql(f"SELECT pid FROM {task}")
            server.run("airflow-restart runner")
            state = f"systemctl show -p ActiveState --value {old}"
            wait_until(lambda: server.run(state).strip() == "inactive", 60, "the old runner does not end")
            # What was ended is no longer there, and runs again beside the new one.
            again = f"SELECT try_number FROM {task} AND state = 'running'"
            wait_until(lambda: server.sql(again) == "2", 60, "it does not run again")
            server.run(f"! test -e /proc/{process}")
    finally:
        server.run(deadline.format(10, 600, unit))
    run.wait()
    assert run.failed_requests == {}


@pytest.mark.long
def test_where_memory_is_short_one_stops_before_the_other_starts(loaded):
    server = loaded
    pair = "systemctl list-units --plain --no-legend --state=active,activating 'airflow-api-server@*.service'"
    if server.unit("api-server") == "airflow-api-server@a.service":
        server.run("airflow-restart api-server")
    server.run("sed 's/^MemAvailable:.*/MemAvailable: 300000 kB/' /proc/meminfo > /run/meminfo")
    server.run("mount --bind /run/meminfo /proc/meminfo")
    try:
        with Load(server) as run:
            said = server.run("airflow-restart api-server scheduler")
    finally:
        server.run("umount /proc/meminfo")
    assert said.count("MB more would be needed") == 2 and "taken over" not in said
    assert [line.split()[0] for line in server.run(pair).splitlines()] == ["airflow-api-server@a.service"]
    run.wait()
    assert run.failed_requests == {} and run.lost() == []


# Takes each connection and drops two of three, like an API server that stops with open connections.
DROPS = """
import socket
server = socket.create_server(("127.0.0.1", 8080))
while True:
    for _ in range(2):
        server.accept()[0].close()
    connection, _ = server.accept()
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: 0\\r\\n\\r\\n")
    connection.close()
"""


def test_a_request_that_an_api_server_drops_as_it_stops_is_asked_again(server):
    server.run("systemctl stop airflow-api-server.socket 'airflow-api-server@*'")
    try:
        server.run("cat > /run/drops.py && systemd-run --quiet --unit=drops python3 /run/drops.py", stdin=DROPS)
        wait_until(lambda: server.run("ss -Hltn sport = :8080"), 30, "the stand-in does not listen")
        answers = [server.session().post(f"{server.url}/api/v2/dags").status_code for _ in range(5)]
    finally:
        server.run("systemctl stop drops; systemctl start airflow.target")
    assert answers == [200] * 5
    server.wait_until_healthy()
