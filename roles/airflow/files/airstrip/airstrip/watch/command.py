"""`airstrip check` examines this host, `airstrip watch` does so and tells somebody, `airstrip ack` hushes it."""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from airstrip.release.disk import write
from airstrip.watch import alerts
from airstrip.watch.busy import somebody_is_at_it
from airstrip.watch.channels import beat, channels
from airstrip.watch.doctor import CHECKS, Doctor
from airstrip.watch.findings import SETTINGS, Finding, Settings, Sick

# In memory, so that a full disk is told too; after a boot what is still wrong is told again.
STATE = Path("/run/airstrip-watch/state.json")
# These cost more than a glance, and what they look at changes slowly.
SLOW = {"database", "versions", "secrets", "libraries", "spending", "backup", "trends"}
SLOW_SECONDS = 900
KEPT_SECONDS = 24 * 3600


def examine(doctor: Doctor, names: Iterable[str]) -> list[Finding]:
    """Run these checks, the sick ones too."""
    findings = []
    for name in names:
        try:
            findings.append(Finding(name, True, getattr(doctor, name)()))
        except Sick as sick:
            findings.append(Finding(name, False, str(sick), sick.fix))
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            findings.append(Finding(name, False, said, "run the check by hand and look"))
    return findings


def check(arguments: Sequence[str] | None = None) -> int:
    """Examine the host; return 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="airstrip check", description="Examine this host")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)}; without, all")
    given = parser.parse_args(arguments)
    if unknown := set(given.checks) - set(CHECKS):
        parser.error(f"no check is called {', '.join(sorted(unknown))}")
    findings = examine(Doctor(Settings.read()), given.checks or CHECKS)
    if given.json:
        print(json.dumps({"at": time.time(), "findings": [{**asdict(each), "line": each.line} for each in findings]}))
    else:
        print("\n".join(each.line for each in findings))
    return 0 if all(each.ok for each in findings) else 1


@contextmanager
def kept() -> Iterator[dict[str, Any]]:
    """Yield the state kept from look to look, and save it afterwards."""
    STATE.parent.mkdir(mode=0o700, exist_ok=True)
    with open(STATE.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = json.loads(STATE.read_text()) if STATE.exists() else {"looked": {}, "alerts": {}, "outbox": []}
        try:
            yield state
        finally:
            # What was sent is remembered, whatever comes after it.
            write(STATE, json.dumps(state))


def due(state: dict[str, Any], now: float) -> list[str]:
    """Return the checks to run: the slow ones seldom, unless one was not well."""
    looked, known = state["looked"], state["alerts"]
    return [
        name
        for name in CHECKS
        if name not in SLOW or name in known or now - looked.get(name, {"at": 0})["at"] >= SLOW_SECONDS
    ]


def watch(arguments: Sequence[str] | None = None) -> int:
    """Check once and send what is due; return 1 if a channel fails."""
    parser = argparse.ArgumentParser(prog="airstrip watch", description="Check once and send what is due")
    parser.parse_args(arguments)
    given, now = json.loads(Path(SETTINGS).read_text()), time.time()
    with kept() as state:
        if not somebody_is_at_it(now):
            findings = examine(Doctor(Settings.read()), due(state, now))
            state["looked"] |= {each.name: {"ok": each.ok, "said": each.said, "at": now} for each in findings}
            known = alerts.restored(state["alerts"])
            messages = alerts.look(known, findings, now)
            state["alerts"] = alerts.stored(known)
            state["outbox"] += [{**asdict(message), "had": []} for message in messages]
        failed = deliver(given, state, now)
        if given["heartbeat"]:
            try:
                beat(given["heartbeat"])
            except Exception as error:
                failed.append(f"heartbeat: {error}")
    print("\n".join(failed), file=sys.stderr, end="\n" * bool(failed))
    return 1 if failed else 0


def quiet(hours: str, now: float) -> bool:
    """Return whether these hours (`22:00-06:00`, in UTC) are now."""
    if not hours:
        return False
    begin, end = hours.split("-")
    at = time.strftime("%H:%M", time.gmtime(now))
    return begin <= at < end if begin <= end else at >= begin or at < end


def deliver(given: dict[str, Any], state: dict[str, Any], now: float) -> list[str]:
    """Send what waits, to each channel that has not had it; return what went wrong. After a day it is too late."""
    failed, waiting = [], []
    for message in state["outbox"]:
        if quiet(given["quiet"], now) and not message["urgent"]:
            waiting.append(message)
            continue
        whole = True
        for name, send in channels(given):
            if name in message["had"]:
                continue
            try:
                send(f"{given['name']}: {message['title']}", message["text"])
                message["had"].append(name)
            except Exception as error:
                failed.append(f"{name}: {error}")
                whole = False
        if not whole and now - message["at"] < KEPT_SECONDS:
            waiting.append(message)
    state["outbox"] = waiting
    return failed


def ack(arguments: Sequence[str] | None = None) -> int:
    """Acknowledge what is wrong; say what."""
    parser = argparse.ArgumentParser(prog="airstrip ack", description="Hear no more of what is wrong until it is over")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="without, all that is wrong")
    given = parser.parse_args(arguments)
    with kept() as state:
        known = alerts.restored(state["alerts"])
        names = alerts.acknowledge(known, given.checks)
        state["alerts"] = alerts.stored(known)
    print(f"known: {', '.join(names)}" if names else "nothing is wrong that somebody was told of")
    return 0
