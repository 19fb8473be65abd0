"""The host remembers its figures for 90 days, and says where they lead."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from airstrip.release.disk import write
from airstrip.release.folder import ROOT, live
from airstrip.systemd import properties
from airstrip.watch.sessions import NoDatabase, ask

FIGURES = Path("/var/lib/airstrip-heal/figures.jsonl")
MEMORY = Path("/proc/meminfo")
EVERY_SECONDS = 900
KEPT_DAYS = 90
DAY_SECONDS = 86400
# Trends of a week, reported after the first day.
TREND_DAYS, LEAST_DAYS = 7, 1
SLOWER = 1.4
# Enough figures to judge a release.
ENOUGH = 4
QUERY = """
SELECT pg_database_size(current_database()) / 1048576, round(coalesce((SELECT sum(last_parse_duration) FROM dag
  WHERE NOT is_stale), 0)::numeric, 2), (SELECT count(*) FROM task_instance WHERE state IN ('queued', 'scheduled'))
"""


def record(database: str, units: Sequence[str]) -> None:
    """Keep a line with the figures of this moment; now and then drop those that are older than 90 days."""
    disk, now = shutil.disk_usage("/"), time.time()
    free = dict(line.split(":") for line in MEMORY.read_text().splitlines())
    line: dict[str, Any] = {
        "at": round(now),
        "release": live(ROOT),
        "disk_free_mb": disk.free // 2**20,
        "free_mb": int(free["MemAvailable"].split()[0]) // 1024,
        "units": {
            each["Id"]: int(each["MemoryCurrent"]) // 2**20
            for each in properties(units, ("Id", "MemoryCurrent"))
            if each["MemoryCurrent"].isdecimal()
        },
    }
    try:
        ((megabytes, seconds, waiting),) = ask(QUERY, database)
        line |= {"database_mb": int(megabytes), "parse_seconds": float(seconds), "waiting": int(waiting)}
    except NoDatabase:
        pass
    lines = FIGURES.read_text().splitlines() if FIGURES.exists() else []
    if lines and json.loads(lines[0])["at"] < now - (KEPT_DAYS + 1) * DAY_SECONDS:
        lines = [each for each in lines if json.loads(each)["at"] >= now - KEPT_DAYS * DAY_SECONDS]
    write(FIGURES, "\n".join([*lines, json.dumps(line)]) + "\n")


def kept() -> Iterator[dict[str, Any]]:
    """Yield the lines, the oldest first."""
    if FIGURES.exists():
        yield from map(json.loads, FIGURES.read_text().splitlines())


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return how much a figure grows per day: least squares over (seconds, figure)."""
    count = len(points)
    at, of = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - at) ** 2 for x, _ in points)
    return DAY_SECONDS * sum((x - at) * (y - of) for x, y in points) / spread if spread else 0.0


def full_in_days() -> float | None:
    """Return in how many days the disk is full, or nothing if it is not filling or not known for long enough."""
    week = [each for each in kept() if each["at"] > time.time() - TREND_DAYS * DAY_SECONDS]
    if not week or week[-1]["at"] - week[0]["at"] < LEAST_DAYS * DAY_SECONDS:
        return None
    lost = -slope([(each["at"], each["disk_free_mb"]) for each in week])
    return week[-1]["disk_free_mb"] / lost if lost > 0 else None


def slower_since() -> tuple[float, str] | None:
    """Return by which factor the DAG files are parsed slower with the live release than with the one before it."""
    parsed: dict[str, list[float]] = {}
    for each in kept():
        if each.get("parse_seconds"):
            parsed.setdefault(each["release"], []).append(each["parse_seconds"])
    told = [release for release, seconds in parsed.items() if len(seconds) >= ENOUGH]
    if len(told) < 2:
        return None
    before, live = told[-2:]
    factor = median(parsed[live]) / median(parsed[before])
    return (factor, live) if factor >= SLOWER else None


def median(values: Sequence[float]) -> float:
    """Return the middle one."""
    return sorted(values)[len(values) // 2]
