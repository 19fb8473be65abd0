"""Whose turn it is: one run at a time has a host, from its first step to its last."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airstrip.release.tree import Refused, now

# A run older than this was cut off: none takes this long, even with many hosts and long tasks.
LOCK_SECONDS = 6 * 3600
STEP_SECONDS = 60

Owner = dict[str, Any]


class Busy(Refused):
    """Somebody else is at work, and this run has not begun."""


class Held(Busy):
    """Another run has the host."""

    def __init__(self, holder: Owner | None, works: bool = False) -> None:
        holder = holder or dict.fromkeys(("user", "host", "release", "since", "step", "worker"), "?")
        what = f"release {holder['release']}" if holder["release"] else "the host"
        super().__init__(
            f"{holder['user']}@{holder['host']} has been at {what} since {holder['since']} "
            f"({holder['step']}). Wait for the end; if that run is dead, add: -e release_break_lock=true"
            + (f", after: sudo kill {holder['worker']}, its last process on this host" if works else "")
        )
        self.holder = holder


class Lock:
    """A file that says whose turn it is.

    While a step works it also holds the file itself, so that a step which outlived its playbook is waited for.
    """

    def __init__(self, path: Path, owner: Owner, breaks: bool) -> None:
        self.path, self.owner, self.breaks = path, owner, breaks

    @contextlib.contextmanager
    def step(self, action: str, release: str) -> Iterator[Owner | None]:
        """Hold the lock for one step; yield the holder whose run was cut off, if there is one. Raise Held."""
        with open(self.path, "a+", encoding="utf-8") as stream:
            deadline = time.monotonic() + STEP_SECONDS
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    # Do not wait for a live run, only for the last step of a dead one.
                    self._check(holder(stream))
                    if time.monotonic() > deadline:
                        raise Held(holder(stream), works=True) from None
                    time.sleep(0.1)
            before = holder(stream)
            mine = self._check(before)
            since = before["since"] if before and mine else now()
            about = {"release": release, "step": action, "since": since, "until": time.time() + LOCK_SECONDS}
            hold(stream, {**self.owner, **about, "worker": os.getpid()})
            yield None if mine else before

    def look(self) -> None:
        """Raise Held if somebody else has the host."""
        with contextlib.suppress(FileNotFoundError), open(self.path, encoding="utf-8") as stream:
            self._check(holder(stream))

    def release(self) -> str:
        """Return the release of this run, if it has the host."""
        with contextlib.suppress(FileNotFoundError), open(self.path, encoding="utf-8") as stream:
            if self._is_mine(found := holder(stream)):
                return str(found["release"])
        return ""

    def give_back(self) -> None:
        """End the run, if it is this one's turn."""
        with contextlib.suppress(FileNotFoundError), open(self.path, "r+", encoding="utf-8") as stream:
            if self._is_mine(holder(stream)):
                stream.truncate(0)

    def _check(self, found: Owner | None) -> bool:
        """Return whether it is this run's turn; raise Held if it is another's."""
        mine = self._is_mine(found)
        if found and not mine and not self.breaks and time.time() < found["until"] and not ended(found):
            raise Held(found)
        return mine

    def _is_mine(self, found: Owner | None) -> bool:
        return bool(found) and all(found.get(key) == self.owner[key] for key in self.owner)


def holder(stream: io.TextIOBase) -> Owner | None:
    """Return who holds a lock."""
    stream.seek(0)
    # A run that is cut off here leaves less than a whole object.
    with contextlib.suppress(ValueError):
        return json.loads(stream.read())
    return None


def hold(stream: io.TextIOBase, owner: Owner) -> None:
    """Note who holds a lock."""
    stream.truncate(0)
    stream.write(json.dumps(owner))
    stream.flush()


def identity(user: str, process: int) -> Owner:
    """Return whose run this is: a person, a machine (or a container on it), and the run's process there."""
    space, machine = Path("/proc/self/ns/pid"), Path("/etc/machine-id")
    name = os.uname().nodename
    return {
        "user": user,
        "host": name,
        # Two machines may have one name.
        "machine": machine.read_text().strip() if machine.exists() else name,
        "space": os.readlink(space) if space.exists() else "",
        "process": process,
        "began": began(process),
    }


def began(process: int) -> str:
    """Return when a process of this machine began; nothing if there is none. A controller may have no /proc."""
    command = ["ps", "-o", "lstart=", "-p", str(process)]
    return subprocess.run(command, text=True, capture_output=True, check=False).stdout.strip()


def ended(found: Owner) -> bool:
    """Return whether the holder was a run on this very machine that has ended."""
    here = identity(found["user"], found["process"])
    return all(found.get(key) == here[key] for key in ("host", "machine", "space")) and found["began"] != here["began"]
