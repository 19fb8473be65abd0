"""A workload as the runner keeps it: what it is, what it holds, and a line in its log."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil


@dataclass
class Workload:
    """One that runs, or has ended and was not yet noted."""

    id: str
    digest: str
    key: Any
    log: str | None
    parent: Parent
    state: str = "running"
    error: str | None = None
    process: int | None = None
    reason: str | None = None

    def told(self) -> dict[str, Any]:
        return {"id": self.id, "digest": self.digest, "state": self.state, "key": self.key, "error": self.error}


@dataclass
class Parent:
    """The warm parent of a virtualenv."""

    process: asyncio.subprocess.Process
    used: float = 0
    follower: asyncio.Task[None] | None = None


def memory(process: psutil.Process) -> int:
    """Return the bytes that a process holds; what several share counts as a part of each."""
    try:
        try:
            return process.memory_full_info().pss
        except psutil.AccessDenied:
            # Not confined yet, or on a kernel without Landlock.
            return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def log_line(file: Path, text: str) -> None:
    """Append a line to a task's log, as Airflow writes them."""
    line = {"timestamp": datetime.now(UTC).isoformat(), "level": "error", "event": text, "logger": "airstrip"}
    with open(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW), "w") as log:
        log.write(json.dumps(line) + "\n")
