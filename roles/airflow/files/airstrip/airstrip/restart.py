"""Restart components of Airflow without losing a task or a request: sudo airflow-restart [COMPONENT ...]

The API server, the runner and the scheduler are pairs. The other of the pair starts, and when it works the first one
stops: the API server after its last answer, the runner after its last task. So for a while two are in memory; where
that is too small the first stops before the other starts, and tasks and requests wait.

Standard library only: it is the same whatever virtualenv is live.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from airstrip.components import HEALTHY_SECONDS, TABLE, wait_until_healthy
from airstrip.systemd import running, seconds, show, systemctl

COMPONENT = re.compile(r"(?:airflow-)?([^@.]*)")
# What should stay free beside the second of a pair, in MB.
RESERVE = 100
SETTLE_SECONDS = 3
LOCK = "/run/airflow-restart.lock"
MEMORY = Path("/proc/meminfo")


def say(text: str) -> None:
    """Print a line at once: somebody waits for it."""
    print(text, flush=True)


def wait_until_stopped(unit: str) -> None:
    """Wait for the unit's end, and say what it waits for whenever that changes."""
    told = ""
    while show(unit, "ActiveState") == "deactivating":
        text = show(unit, "StatusText")
        if "still run" in text and text != told:
            began = int(show(unit, "StateChangeTimestampMonotonic") or 0) / 1e6
            left = seconds(show(unit, "TimeoutStopUSec")) - (time.clock_gettime(time.CLOCK_MONOTONIC) - began)
            say(f"{unit}: {text} (it is ended in {left:.0f} s)")
            told = text
        time.sleep(0.5)


def works(unit: str) -> bool:
    """Return whether a unit that systemd calls started still runs after a while."""
    main = show(unit, "MainPID")
    # gunicorn is ready before its first worker, and ends if that one cannot start.
    time.sleep(SETTLE_SECONDS)
    return show(unit, "SubState") == "running" and show(unit, "MainPID") == main


def free() -> int:
    """Return the available memory in MB."""
    values = dict(line.split(":") for line in MEMORY.read_text().splitlines())
    return int(values["MemAvailable"].split()[0]) // 1024


def start(unit: str, goes_on: str | None = None) -> None:
    """Start a unit. Raises SystemExit where it does not work.

    It is then stopped if another goes on, otherwise left to systemd's next try.
    """
    error = systemctl("start", unit)
    if error or not works(unit):
        if goes_on:
            systemctl("stop", unit)
        otherwise = f"{goes_on} goes on" if goes_on else "systemd tries again until it does"
        raise SystemExit(f"{error}\nlook at: journalctl -eu {unit}\n{unit} did not start, {otherwise}".lstrip())


def retire(unit: str) -> None:
    """Let a unit finish its work, then stop."""
    systemctl("disable", unit)
    if "-runner@" in unit:
        # While tasks run, systemctl stop would block the start of all units ordered after this one.
        systemctl("kill", "--signal=USR1", "--kill-whom=main", unit)
    else:
        systemctl("stop", "--no-block", unit)
    time.sleep(0.5)


def hand_over(component: str) -> None:
    """Let the other of a pair take over. Raises SystemExit where it does not start."""
    pair = TABLE[component].units
    both = sorted(filter(running, pair), key=lambda unit: int(show(unit, "ActiveEnterTimestampMonotonic") or 0))
    if not both:
        start(pair[0])
        return
    old = both.pop()
    (new,) = set(pair) - {old}
    for left_over in both:
        # A restart that was cut off left two.
        retire(left_over)
    wait_until_stopped(new)
    missing = TABLE[component].second_mb + RESERVE - free()
    if missing > 0:
        # The socket starts the first of the pair as soon as a request comes: so that is the one.
        first = pair[0]
        say(f"{old} stops before {first} starts: {missing} MB more would be needed for two at once")
        retire(old)
        systemctl("enable", first)
        wait_until_stopped(old)
        start(first)
        return
    start(new, old)
    systemctl("enable", new)
    retire(old)
    say(f"{new} has taken over from {old}")


def in_place(component: str) -> None:
    """Restart one that is no pair. Raises SystemExit where systemd refuses."""
    (unit,) = TABLE[component].units
    error = systemctl("restart", unit)
    if error:
        raise SystemExit(
            f"{error}\nlook at: journalctl -eu {unit}\n{unit} did not start, systemd tries again until it does"
        )
    say(f"{unit} restarted")


def main(arguments: Sequence[str] | None = None) -> None:
    """Restart what is named, or all that this host runs."""
    parser = argparse.ArgumentParser(prog="airflow-restart", description=__doc__.partition("\n")[0])
    parser.add_argument("--of", required=True, metavar="COMPONENTS", help=argparse.SUPPRESS)
    parser.add_argument("components", nargs="*", metavar="COMPONENT", help="or a unit of it; without, all")
    given = parser.parse_args(arguments)
    if os.getuid():
        raise SystemExit("airflow-restart: put sudo before the command")
    known, names = given.of.split(","), [COMPONENT.match(name)[1] for name in given.components]
    unknown = set(names) - set(known)
    if unknown:
        raise SystemExit(f"this host has no {', '.join(sorted(unknown))}, but: {', '.join(known)}")
    with open(LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for component in dict.fromkeys(names) or known:
            (hand_over if TABLE[component].pair else in_place)(component)
        # A process that runs has not yet said that it works, and only the API server of this host knows who has.
        left = wait_until_healthy(names or known) if "api-server" in known else []
    if left:
        raise SystemExit(
            f"no heartbeat from {', '.join(left)} within {HEALTHY_SECONDS} s: journalctl -e -u 'airflow-*'"
        )


if __name__ == "__main__":
    main()
