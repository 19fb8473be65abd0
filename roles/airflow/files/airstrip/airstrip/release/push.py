"""A push: all steps at once, with an archive from a sender who may do nothing else.

What a deploy key runs, and all that it may run, is the role's `usr/local/sbin/airstrip-push`, which ends here.
"""

from __future__ import annotations

import fcntl
import os
import select
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from airstrip.release import tree
from airstrip.release.engine import Engine
from airstrip.release.lock import Busy
from airstrip.release.run import Answer
from airstrip.release.tree import Refused

PUSH_SECONDS = 10
SEND_SECONDS = 300


def push(engine: Engine, archive: IO[bytes]) -> Answer:
    """Make the archive live. Raises Refused."""
    engine.releases.make()
    with turn(engine.releases.root / "pushed"), tempfile.TemporaryFile(dir=engine.releases.root) as spooled:
        # Not under the lock of all runs: a sender may be slow.
        spool(archive, spooled, engine.max_mb * 2**20)
        answer = engine.through(engine.stage(spooled, engine.host.virtualenv()))
    if not answer["changed"]:
        return {**answer, "summary": f"{answer['release']} is live already: nothing to do"}
    took = sum(engine.seconds.values())
    return {**answer, "summary": f"{answer['release']} is live after {took:.1f} s: {answer['summary']}"}


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Hold a file that has the time of the last push. Raises Busy if that was a moment ago or still goes on."""
    with open(path, "a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("Another push is on its way: wait for its end, and push again") from None
        stream.seek(0)
        if 0 <= time.time() - float(stream.read() or 0) < PUSH_SECONDS:
            raise Busy(f"The last push was less than {PUSH_SECONDS} s ago: wait, and push again")
        stream.truncate(0)
        stream.write(str(time.time()))
        stream.flush()
        yield


def spool(source: IO[bytes], target: IO[bytes], most: int) -> None:
    """Copy what is sent, within limits of size and time. Raises Refused."""
    deadline = time.monotonic() + SEND_SECONDS
    while select.select([source], [], [], max(0, deadline - time.monotonic()))[0]:
        chunk = os.read(source.fileno(), tree.CHUNK)
        if not chunk:
            target.seek(0)
            return
        most -= len(chunk)
        if most < 0:
            raise Refused("The archive is larger than a release may be (release_max_mb)")
        target.write(chunk)
    raise Refused(f"The archive did not come within {SEND_SECONDS} s")
