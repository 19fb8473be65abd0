"""What a check found, and what a host should be like."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

SETTINGS = "/etc/airstrip/watch.json"
RED, PLAIN = "\x1b[31m", "\x1b[0m"


class Sick(Exception):
    """A check failed: what is wrong, and the command or variable that fixes it."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.fix = fix


@dataclass(frozen=True)
class Finding:
    """What a check found: that all is well, or what is not and what fixes it."""

    name: str
    ok: bool
    said: str
    fix: str = ""

    @property
    def line(self) -> str:
        """It in one line, in colour on a terminal."""
        line = f"{'ok   ' if self.ok else 'FAIL '} {self.name:<14} {self.said}{'; fix: ' if self.fix else ''}{self.fix}"
        return f"{RED}{line}{PLAIN}" if sys.stdout.isatty() and not self.ok else line


@dataclass(frozen=True)
class Settings:
    """What a host should be like: units of which those in a list are a pair, components, and DAGs.

    `dags` are those that must run, each with the time of day (UTC, `HH:MM`) by which a run of that day has succeeded,
    or nothing.
    """

    units: list[list[str]]
    components: list[str]
    administrator: str
    database: str
    certificate_days: int
    backup: bool
    dags: dict[str, str]
    # The programs may be newer than the file.
    heal: bool = True
    metrics: bool = False

    @classmethod
    def read(cls, path: str = SETTINGS) -> Settings:
        """Return those of this host. Raises SystemExit where site.yml has not written them yet."""
        try:
            given = json.loads(Path(path).read_text())
        except FileNotFoundError:
            raise SystemExit(f"there is no {path} yet: run playbooks/site.yml once") from None
        return cls(**{name: given[name] for name in cls.__dataclass_fields__ if name in given})
