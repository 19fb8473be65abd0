"""What was replaced or ended by itself, and what it said last."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from airstrip.release.disk import write

DONE = Path("/var/lib/airstrip-heal/done.jsonl")
KEPT = 200
SYSTEMD = "1"


def journal(unit: str) -> list[dict[str, str]]:
    """Return the last entries of a unit in the journal, systemd's own among them."""
    command = ["journalctl", "-u", unit, "-n", "200", "-o", "json", "--no-pager"]
    said = subprocess.run(command, text=True, capture_output=True, check=False).stdout.splitlines()
    # A message that is no text is a list of bytes.
    return [entry for entry in map(json.loads, said) if isinstance(entry.get("MESSAGE"), str)]


def last_words(unit: str) -> str:
    """Return what a unit's last processes said of their end: of a Python program its error, else their last line."""
    own = [entry for entry in journal(unit) if entry.get("_PID") != SYSTEMD and entry["MESSAGE"].strip()]
    last = own[-1].get("_SYSTEMD_INVOCATION_ID") if own else None
    lines = [entry["MESSAGE"] for entry in own if entry.get("_SYSTEMD_INVOCATION_ID") == last]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit|Interrupt)\b", line)]
    return (errors or lines or ["nothing"])[-1].strip()[:200]


def how_it_ended(unit: str) -> str:
    """Return systemd's word for it: `watchdog`, `exit-code`, `signal`, `oom-kill`; or `success`."""
    said = [entry["MESSAGE"] for entry in journal(unit) if entry.get("_PID") == SYSTEMD]
    results = [result[1] for line in said if (result := re.search(r"Failed with result '(.+)'", line))]
    return results[-1] if results else "success"


def note(unit: str, what: str) -> None:
    """Say what was done, and keep it."""
    print(f"{unit}: {what}", flush=True)
    lines = DONE.read_text().splitlines()[-KEPT:] if DONE.exists() else []
    write(DONE, "\n".join([*lines, json.dumps({"at": time.time(), "unit": unit, "what": what})]) + "\n")


def done(since: float) -> list[dict[str, Any]]:
    """Return what was done since a moment."""
    lines = map(json.loads, DONE.read_text().splitlines()) if DONE.exists() else []
    return [each for each in lines if each["at"] >= since]
