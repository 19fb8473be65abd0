"""systemd's units, as systemctl shows and changes them. Standard library only: it runs without a virtualenv."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Sequence

RUNNING = {"active", "activating", "reloading"}
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400}


def systemctl(*arguments: str) -> str:
    """Run systemctl; return its error, or nothing where all is well."""
    result = subprocess.run(["systemctl", *arguments], text=True, capture_output=True, check=False)
    return result.stderr.strip() if result.returncode else ""


def properties(units: Sequence[str], names: Sequence[str]) -> list[dict[str, str]]:
    """Return these properties of each unit; moments are in UTC. Raises subprocess.CalledProcessError."""
    command = ["systemctl", "show", "--timestamp=us+utc", f"--property={','.join(names)}", *units]
    environment = {**os.environ, "LC_ALL": "C"}
    shown = subprocess.run(command, text=True, capture_output=True, check=True, env=environment).stdout
    return [dict(line.split("=", 1) for line in block.splitlines()) for block in shown.strip().split("\n\n")]


def show(unit: str, name: str) -> str:
    """Return a property of a unit. Raises subprocess.CalledProcessError."""
    return properties([unit], [name])[0][name]


def running(unit: str) -> bool:
    """Return whether a unit runs, or is about to."""
    return show(unit, "ActiveState") in RUNNING


def seconds(text: str) -> float:
    """Return the seconds of a span as systemd writes it: `1h 2min 3.5s`, or infinity."""
    if text == "infinity":
        return float("inf")
    return sum(float(number) * SECONDS[name] for number, name in re.findall(r"([0-9.]+)(us|ms|min|s|h|d)\b", text))


def kind(unit: str) -> str:
    """Return a unit's name without its instance: `nginx`, `airflow-scheduler`."""
    return re.split("[@.]", unit)[0]


def machine_stops() -> bool:
    """Return whether it is the whole machine that stops."""
    said = subprocess.run(["systemctl", "is-system-running"], text=True, capture_output=True, check=False).stdout
    return said.strip() == "stopping"


def notify(message: str) -> None:
    """Tell systemd, where it listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(message.encode(), address.replace("@", "\0", 1))
