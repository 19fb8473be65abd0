"""`airstrip heal`: replaces what hangs, ends what holds up all others, and writes metrics for Prometheus.

airstrip-heal.service keeps it running. Whatever it did is in the journal, and `airstrip check` tells of the last day.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain

from airstrip.systemd import kind, notify, properties, systemctl
from airstrip.watch.busy import somebody_is_at_it
from airstrip.watch.done import note
from airstrip.watch.figures import EVERY_SECONDS, record
from airstrip.watch.findings import Settings
from airstrip.watch.loops import Loops, forget
from airstrip.watch.metrics import EVERY_SECONDS as TELL_SECONDS
from airstrip.watch.metrics import tell
from airstrip.watch.probes import wrong
from airstrip.watch.sessions import NoDatabase, look

STATE = ("Id", "ActiveState", "SubState", "NRestarts", "ActiveEnterTimestampMonotonic")
LOOK_SECONDS = 10
# One bad answer may just be load.
PATIENCE = 3
# What has just started is left alone.
YOUNG_SECONDS = 45
# If replacing does not help, stop, and report it.
REPLACED_SECONDS, REPLACEMENTS = 4 * 3600, 3


class Healer:
    """What it remembers from look to look."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.loops = Loops()
        self.failed: Counter[str] = Counter()
        self.replaced: dict[str, deque[float]] = {}

    def state(self) -> dict[str, dict[str, str]]:
        """Return what systemd says of each unit."""
        return {each["Id"]: each for each in properties([*chain(*self.settings.units)], STATE)}

    def look(self) -> None:
        """Look once."""
        state, found = self.state(), {}
        if any(pair[0].startswith("postgresql") for pair in self.settings.units):
            try:
                found = self.database()
            except NoDatabase as error:
                # Without it nothing else works, whatever is restarted.
                self.rest(state)
                self.wake(str(error))
                return
        for unit, each in state.items():
            self.loops.look(unit, each, replaced=self.lately(unit))
        now = time.clock_gettime(time.CLOCK_MONOTONIC)
        active = [unit for unit, each in state.items() if each["SubState"] == "running"]
        old = [unit for unit in active if now - int(state[unit]["ActiveEnterTimestampMonotonic"]) / 1e6 > YOUNG_SECONDS]
        with ThreadPoolExecutor() as threads:
            said = dict(zip(old, threads.map(wrong, old), strict=True))
        for unit in state:
            # While one of a pair starts, both are left alone.
            pair = next(pair for pair in self.settings.units if unit in pair)
            settled = unit in old and not set(pair) & set(active) - set(old)
            self.judge(unit, (said[unit] or found.get(kind(unit), "")) if settled else "")

    def rest(self, state: dict[str, dict[str, str]]) -> None:
        """Begin anew with the next look."""
        self.failed = Counter({"postgresql": self.failed["postgresql"]})
        for unit, each in state.items():
            self.loops.rest(unit, each)

    def database(self) -> dict[str, str]:
        """Note which sessions were ended; return what each service fails to do. Raises NoDatabase."""
        found = look(self.settings.database)
        self.failed["postgresql"] = 0
        for said, times in Counter(said for what, said in found if what == "ended").items():
            note("postgresql", f"ended {said}{f' ({times} of them)' if times > 1 else ''}")
        return dict(found)

    def wake(self, why: str) -> None:
        """Resume a stopped PostgreSQL, which is harmless to a running one: a slow one is never killed."""
        self.failed["postgresql"] += 1
        systemctl("kill", "--signal=CONT", "postgresql@*.service")
        if self.failed["postgresql"] == 1:
            note("postgresql", f"told to go on, since {why}")

    def judge(self, unit: str, why: str) -> None:
        """End the processes of a component that did not work three times in a row: systemd starts others."""
        self.failed[unit] = self.failed[unit] + 1 if why else 0
        last = self.replaced.setdefault(unit, deque())
        forget(last, REPLACED_SECONDS)
        if self.failed[unit] >= PATIENCE and len(last) < REPLACEMENTS:
            self.failed[unit] = 0
            last.append(time.monotonic())
            systemctl("kill", "--signal=KILL", unit)
            note(unit, f"replaced, since {why}")

    def lately(self, unit: str) -> bool:
        """Return whether a unit was replaced a moment ago."""
        last = self.replaced.get(unit)
        return bool(last) and time.monotonic() - last[-1] < YOUNG_SECONDS


@contextmanager
def said() -> Iterator[None]:
    """Say what went wrong, and go on."""
    try:
        yield
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Look for ever."""
    parser = argparse.ArgumentParser(prog="airstrip heal", description="Replace what runs and does nothing, for ever")
    parser.parse_args(arguments)
    settings = Settings.read()
    healer, due, told = Healer(settings), 0.0, 0.0
    notify("READY=1")
    while True:
        if settings.metrics and time.monotonic() >= told:
            told = time.monotonic() + TELL_SECONDS
            with said():
                tell(settings)
        with said():
            if somebody_is_at_it(time.time()):
                healer.rest(healer.state())
            elif time.monotonic() >= due:
                due = time.monotonic() + EVERY_SECONDS
                record(settings.database, [*chain(*settings.units)])
            elif settings.heal:
                healer.look()
        notify("WATCHDOG=1")
        time.sleep(LOOK_SECONDS)
