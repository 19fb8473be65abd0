"""One run of a playbook, or of a person on the host: whose it is, what bounds it, and what it has noted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from airstrip.release.folder import Releases
from airstrip.release.host import Host
from airstrip.release.lock import Lock
from airstrip.release.tree import Refused

Answer = dict[str, Any]


@dataclass
class Run:
    """A run by one owner. With `check` nothing is changed; with `diff` the answers hold what would be."""

    releases: Releases
    host: Host
    lock: Lock
    # The release of the last step.
    at: str = ""
    action: str = "update"
    check: bool = False
    diff: bool = False
    import_seconds: int = 5
    import_mb: int = 500
    live_seconds: int = 120
    keep: int = 10
    keep_mb: int = 3000
    max_mb: int = 500
    seconds: dict[str, float] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def take(self) -> Answer:
        """Keep other runs away while more than releases changes."""
        if self.check:
            self.lock.look()
        else:
            with self.step(""):
                pass
        return {"changed": False}

    def give_back(self) -> Answer:
        """Unlock the host."""
        self.lock.give_back()
        return {"changed": False}

    def refused(self, why: str) -> None:
        """Note that the last step was refused, and unlock the host."""
        if not self.check:
            self.note(self.at, f"refused: {why}")
            self.lock.give_back()

    def note(self, release: str, what: str, action: str = "", by: dict[str, Any] | None = None) -> None:
        """Add a line to the history."""
        by = by or self.lock.owner
        self.releases.note(f"{action or self.action} {release or '-'} by {by['user']}@{by['host']}: {what}")

    @contextmanager
    def step(self, release: str) -> Iterator[None]:
        """Hold the lock for one step. Raises Held."""
        self.releases.make()
        self.at = release
        with self.lock.step(self.action, release) as cut_off:
            if cut_off:
                self.note(cut_off["release"], "cut off", cut_off["step"], cut_off)
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Refuse where the disk does."""
        try:
            yield
        except OSError as error:
            raise Refused(f"The release cannot be written to {self.releases.root}: {error}") from error

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Note the seconds of a part."""
        start = time.monotonic()
        yield
        self.seconds[part] = round(time.monotonic() - start, 2)
