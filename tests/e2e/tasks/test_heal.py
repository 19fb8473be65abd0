"""Hung units are replaced automatically, blocking sessions are ended, and crash loops stop."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.server import Server, wait_until

PAIRS = ("api-server", "runner", "scheduler")
DROP_IN = "/run/systemd/system/airflow-triggerer.service.d"
# All database connections except the superuser's, by the services' user, as a leaking client would.
HOARD = """
import os, time, psycopg2
address = open(os.environ["CREDENTIALS_DIRECTORY"] + "/database_url").read().strip().replace("+psycopg2", "", 1)
kept = []
while True:
    try:
        kept.append(psycopg2.connect(address))
    except psycopg2.OperationalError:
        time.sleep(1)
"""


def processes(server: Server, units: list[str]) -> list[str]:
    """The main process of each unit that is active."""
    return server.run(f"systemctl show -p MainPID --value {' '.join(units)}", check=False).split()


def healing(server: Server) -> str:
    """What the doctor says of it."""
    return server.run("airstrip check healing", check=False)


def test_what_hangs_is_replaced(server):
    units = [server.unit(name) for name in PAIRS]
    units += ["airflow-dag-processor.service", "airflow-triggerer.service", "nginx.service"]
    before = processes(server, units)
    server.run(f"systemctl kill -s STOP {' '.join(units)}")

    def replaced() -> bool:
        now = processes(server, units)
        return len(now) == len(units) and not {"0", *before} & set(now)

    wait_until(replaced, 240, lambda: f"{dict(zip(units, processes(server, units), strict=True))}, before {before}")
    server.wait_until_healthy()
    assert re.search(r"since yesterday, last \S+ at \d\d:\d\d UTC, (replaced|ended)", healing(server))
    assert server.run("journalctl -u airflow-triggerer -o cat").count("Watchdog timeout") == 1


def test_a_frozen_database_resumes_and_nothing_is_replaced(server):
    units = [*map(server.unit, PAIRS), "airflow-dag-processor.service", "airflow-triggerer.service"]
    before = processes(server, units)
    server.run("systemctl kill -s STOP postgresql@17-main")
    wait_until(lambda: server.run("timeout 5 runuser -u postgres -- psql -Atc 'SELECT 7'", check=False) == "7\n", 180)
    server.wait_until_healthy()
    assert "postgresql: told to go on" in server.run("journalctl -u airstrip-heal -o cat")
    assert processes(server, units) == before


@pytest.mark.long
def test_blocking_sessions_are_ended(server):
    hold = "BEGIN; SELECT count(*) FROM (SELECT * FROM job FOR UPDATE) j; SELECT pg_sleep(3600)"
    server.run(f"systemd-run --quiet --unit=holder --uid=postgres psql -qc {shlex.quote(hold)} airflow")
    server.run(f"systemd-run --quiet --unit=hoarder --property=Type=exec airflow-run python -P -c {shlex.quote(HOARD)}")
    try:
        ended = "systemctl is-active holder; journalctl -u airstrip-heal -o cat"
        wait_until(
            lambda: re.search(
                r"^(inactive|failed)\n(.|\n)*an idle session of airflow-cli", server.run(ended, check=False)
            ),
            180,
            lambda: server.run(ended, check=False),
        )
    finally:
        server.run("systemctl stop holder hoarder 'airflow-cli@*'", check=False)
    assert "for which a service waited: BEGIN; SELECT count(*)" in server.run("journalctl -u airstrip-heal -o cat")
    server.wait_until_healthy()


@pytest.mark.long
def test_a_crash_loop_ends_as_failed_and_says_why(server):
    crash = "/bin/sh -c \"echo ' no such thing' >&2; echo 'KeyError: smtp_default' >&2; exit 1\""
    server.run(
        f"mkdir -p {DROP_IN} && printf '[Service]\\nRestartSec=3\\nExecStart=\\nExecStart=%s\\n' {shlex.quote(crash)} "
        f"> {DROP_IN}/crash.conf && systemctl daemon-reload && systemctl restart --no-block airflow-triggerer"
    )
    try:
        wait_until(
            lambda: server.run("systemctl is-failed airflow-triggerer", check=False) == "failed\n", 180, healing(server)
        )
        said = server.run("airstrip check units", check=False)
        assert "not running: airflow-triggerer.service, which said last: KeyError: smtp_default; fix: " in said
    finally:
        server.run(f"rm {DROP_IN}/crash.conf && systemctl daemon-reload && systemctl start airflow-triggerer")
    server.wait_until_healthy()
    # What stopped the loop goes with it.
    wait_until(lambda: server.run(f"ls {DROP_IN}") == "", 60, "systemd would not restart it")
