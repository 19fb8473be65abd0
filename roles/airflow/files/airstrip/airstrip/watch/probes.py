"""Probes of what cannot tell systemd that it is alive. One that raises has failed."""

from __future__ import annotations

import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from airstrip.components import API, sick
from airstrip.systemd import kind
from airstrip.watch.tokens import task_token

CONFIGURATION = "/etc/airflow/airflow.cfg"
TASK_KEY = "/etc/airflow/secrets/jwt_secret"
SOCKETS = "/run/airflow-runner"
ANSWER_SECONDS = 10


class Idle(Exception):
    """A component runs but gets nothing done."""


def answer(path: str, seconds: float = ANSWER_SECONDS, **headers: str) -> bytes:
    """Return the API server's answer. Raises OSError, also if none comes in time."""
    with urllib.request.urlopen(urllib.request.Request(f"{API}{path}", headers=headers), timeout=seconds) as got:
        return got.read()


def answer_to_a_task(seconds: float = ANSWER_SECONDS) -> None:
    """Ask the API server what a task asks, with a token like a task's. Raises OSError."""
    token = task_token(Path(TASK_KEY).read_text().strip(), Path(CONFIGURATION).read_text())
    answer("/execution/dag-runs/count?dag_id=doctor", seconds, Authorization=f"Bearer {token}")


def api_server(unit: str) -> None:
    """Ask how it is, which reads the database, then for the login page, then as a task asks."""
    if found := sick(["api-server"], ANSWER_SECONDS):
        raise Idle(
            "it has no connection to the database" if found == ["metadatabase"] else "it says nothing of its health"
        )
    answer("/auth/login/")
    try:
        answer_to_a_task()
    except urllib.error.HTTPError as error:
        # A refused token is no reason to kill it: the doctor reports that.
        if error.code >= 500:
            raise


def runner(unit: str) -> None:
    """Connect as a scheduler does: it greets with a line."""
    path = f"{SOCKETS}/{unit.partition('@')[2].partition('.')[0]}.sock"
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(ANSWER_SECONDS)
        client.connect(path)
        with client.makefile("rb") as greeting:
            if not greeting.readline():
                raise Idle("it closes the connection")


def nginx(unit: str) -> None:
    """Ask for anything, over TLS."""
    # Without the authorities that the default context reads, which cost more than all other probes.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", 443), timeout=ANSWER_SECONDS)
    with plain, context.wrap_socket(plain) as client:
        client.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
        if not client.recv(1):
            raise Idle("it closes the connection")


PROBES: dict[str, Callable[[str], None]] = {
    "airflow-api-server": api_server,
    "airflow-runner": runner,
    "nginx": nginx,
}


def wrong(unit: str) -> str:
    """Return what is wrong with a unit that can be asked, or nothing."""
    probe = PROBES.get(kind(unit))
    try:
        if probe:
            probe(unit)
    except Exception as error:
        return str(error) or type(error).__name__
    return ""
