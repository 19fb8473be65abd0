"""systemd's units, as systemctl shows and changes them. Standard library only: it runs without a virtualenv."""

from __future__ import annotations

import re
import subprocess

RUNNING = {"active", "activating", "reloading"}
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400}


def systemctl(*arguments: str) -> str:
    """Run systemctl; return its error, or nothing where all is well."""
    result = subprocess.run(["systemctl", *arguments], text=True, capture_output=True, check=False)
    return result.stderr.strip() if result.returncode else ""


def show(unit: str, name: str) -> str:
    """Return a property of a unit. Raises subprocess.CalledProcessError."""
    command = ["systemctl", "show", f"--property={name}", "--value", unit]
    return subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip()


def running(unit: str) -> bool:
    """Return whether a unit runs, or is about to."""
    return show(unit, "ActiveState") in RUNNING


def seconds(text: str) -> float:
    """Return the seconds of a span as systemd writes it: `1h 2min 3.5s`, or infinity."""
    if text == "infinity":
        return float("inf")
    return sum(float(number) * SECONDS[name] for number, name in re.findall(r"([0-9.]+)(us|ms|min|s|h|d)\b", text))
