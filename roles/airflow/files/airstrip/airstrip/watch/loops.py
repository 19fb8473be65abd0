"""Ends the restart loop of a unit that keeps crashing, as failed, and retries it now and then."""

from __future__ import annotations

import re
import time
from collections import deque
from pathlib import Path

from airstrip.systemd import systemctl
from airstrip.watch.done import how_it_ended, last_words, note

# This many crashes in this time are a loop.
CRASHES, CRASH_SECONDS = 5, 600
# The reason may be gone by then: nothing stays dead forever.
AGAIN_SECONDS = 900
UNITS = Path("/run/systemd/system")
NAME = "loop.conf"
# Its socket starts it with the next request.
NEVER = "airflow-api-server@"
# A failing database or full disk is no unit's fault: it goes on as soon as that is over.
OTHERS = re.compile(r"OperationalError|No space left on device")


class Loops:
    """What it remembers of each unit."""

    def __init__(self) -> None:
        self.restarts: dict[str, int] = {}
        self.crashes: dict[str, deque[float]] = {}
        self.left: dict[str, float] = {}

    def look(self, unit: str, each: dict[str, str], replaced: bool) -> None:
        """Count a unit's crashes, but for a hang or what was `replaced`; at the fifth it ends as failed."""
        count, before = int(each["NRestarts"]), self.restarts.get(unit)
        self.restarts[unit] = count
        dead = each["ActiveState"] in {"failed", "inactive"}
        if before is not None and count < before and not dead:
            # Somebody fixed it and started it.
            self.allow(unit)
        crashes = self.crashes.setdefault(unit, deque())
        forget(crashes, CRASH_SECONDS)
        if before is not None and count > before and not replaced:
            how = how_it_ended(unit)
            why = f", {last_words(unit)}" if how == "exit-code" else ""
            if how != "watchdog" and not OTHERS.search(why):
                crashes.extend([time.monotonic()] * (count - before))
            note(unit, f"ended and restarted, {how}{why}")
        if unit.startswith(NEVER):
            return
        if dead and drop_in(unit).exists():
            times = f"{len(crashes) + 1} times in {CRASH_SECONDS // 60} min"
            note(unit, f"crashed {times} and is left for {AGAIN_SECONDS // 60} min: {last_words(unit)}")
            self.left[unit] = time.monotonic()
            self.allow(unit)
        elif dead and unit in self.left and time.monotonic() - self.left[unit] > AGAIN_SECONDS:
            del self.left[unit]
            note(unit, "tried again")
            systemctl("start", "--no-block", unit)
        elif not dead:
            self.left.pop(unit, None)
            if not crashes:
                self.allow(unit)
            elif len(crashes) >= CRASHES - 1 and not drop_in(unit).exists():
                drop_in(unit).parent.mkdir(exist_ok=True)
                drop_in(unit).write_text("[Service]\nRestart=no\n")
                systemctl("daemon-reload")

    def rest(self, unit: str, each: dict[str, str]) -> None:
        """Forget its crashes: while the database is away, or somebody is at the host, they are nobody's fault."""
        self.restarts[unit] = int(each["NRestarts"])
        self.allow(unit)

    def allow(self, unit: str) -> None:
        """Let systemd restart a unit again."""
        self.crashes.pop(unit, None)
        if drop_in(unit).exists():
            drop_in(unit).unlink()
            systemctl("daemon-reload")


def drop_in(unit: str) -> Path:
    """Return what keeps systemd from restarting a unit."""
    return UNITS / f"{unit}.d" / NAME


def forget(moments: deque[float], seconds: float) -> None:
    """Drop what is older."""
    while moments and time.monotonic() - moments[0] > seconds:
        moments.popleft()
