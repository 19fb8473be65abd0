"""Notes on a day, an object each: the run that owns it, its rows, its newest report, and who was mailed which."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

from etl.errors import PermanentError, TemporaryError
from etl.report import layout
from etl.report.combining import Count
from etl.storage import Storage

ORDERS_LAST = timedelta(hours=6)


class InUse(TemporaryError):
    """Another run is about the same day."""

    seconds = 10.0


class TakenOver(PermanentError):
    """What this run knows of the day is out of date."""


def owner(storage: Storage, day: date) -> str:
    """Return the run that claimed a day last; empty if none did."""
    return _get(storage, day, "run").get("id", "")


def claim(storage: Storage, day: date, run: str) -> None:
    """Claim a day for a run."""
    _put(storage, day, "run", {"id": run})


def hold(storage: Storage, day: date, run: str) -> None:
    """Raise TakenOver where another run has claimed the day."""
    if (found := owner(storage, day)) not in ("", run):
        raise TakenOver(f"{found} has been about {day} since: clear this whole run, so that it waits for its turn")


def note_orders(storage: Storage, day: date, now: datetime) -> None:
    """Note when a day's orders were read."""
    _put(storage, day, "orders", {"read_at": now.isoformat()})


def refuse_old_orders(storage: Storage, day: date, now: datetime) -> None:
    """Raise TakenOver where a day's orders were read long ago: some may be of another day by now."""
    read_at = datetime.fromisoformat(_get(storage, day, "orders").get("read_at", now.isoformat()))
    if now - read_at > ORDERS_LAST:
        raise TakenOver(
            f"the orders of {day} were read at {read_at:%F %H:%M}, and may have changed: clear extract_orders too"
        )


def note_counts(storage: Storage, day: date, counts: dict[str, Count]) -> None:
    """Note what became of the rows of a day's sources."""
    _put(storage, day, "counts", {channel: asdict(count) for channel, count in counts.items()})


@dataclass(frozen=True)
class Known:
    """What is noted of a day: its rows, its newest report and how many there were, what it shows, who was told."""

    counts: dict[str, Count]
    newest: str
    reports: int
    shown: str
    told: list[str]


def around(storage: Storage, day: date) -> Iterator[tuple[date, Known]]:
    """Yield the other days read so far that may have exchanged an order with this one."""
    names: dict[date, set[str]] = defaultdict(set)
    for key in storage.keys(layout.NOTES):
        found = date.fromisoformat(key.removeprefix(f"{layout.NOTES}dt=")[:10])
        if 0 < abs(found - day).days <= layout.MOVES:
            names[found].add(key)
    for other in sorted(names):
        # One listing told what is there.
        noted = {
            name: json.loads(storage.get(key)) if (key := f"{layout.notes(other)}/{name}.json") in names[other] else {}
            for name in ("counts", "newest", "shown", "mailed")
        }
        if noted["counts"]:
            yield (
                other,
                Known(
                    {channel: Count(**count) for channel, count in noted["counts"].items()},
                    noted["newest"].get("sha256", ""),
                    noted["newest"].get("number", 0),
                    noted["shown"].get("content", ""),
                    sorted({address for to in noted["mailed"] for address in to.split(",")}),
                ),
            )


def note_report(storage: Storage, day: date, sha256: str) -> None:
    """Note the newest report of a day."""
    _put(storage, day, "newest", {"sha256": sha256, "number": _get(storage, day, "newest").get("number", 0) + 1})


def is_newest(storage: Storage, day: date, sha256: str) -> bool:
    """Return whether no other report of the day was made since."""
    return _get(storage, day, "newest").get("sha256") == sha256


def note_mail(storage: Storage, day: date, sha256: str, to: str) -> None:
    """Note what was mailed about the day."""
    _put(storage, day, "mailed", {**_get(storage, day, "mailed"), to: sha256})


def was_mailed(storage: Storage, day: date, sha256: str, to: str) -> bool:
    """Return whether these people were last mailed exactly this report of the day."""
    return _get(storage, day, "mailed").get(to) == sha256


def note_shown(storage: Storage, day: date, content: str, read_at: str) -> None:
    """Note what a day's stored report shows, and when the warehouse said so."""
    _put(storage, day, "shown", {"content": content, "read_at": read_at})


def shown_since(storage: Storage, day: date) -> str:
    """Return when the warehouse said what a day's stored report shows."""
    return _get(storage, day, "shown").get("read_at", "")


def _get(storage: Storage, day: date, name: str) -> dict[str, Any]:
    # By listing: a role that may list only a prefix is refused a request for a missing object.
    key = f"{layout.notes(day)}/{name}.json"
    return json.loads(storage.get(key)) if key in storage.keys(f"{layout.notes(day)}/") else {}


def _put(storage: Storage, day: date, name: str, values: dict[str, Any]) -> None:
    storage.put(f"{layout.notes(day)}/{name}.json", json.dumps(values, indent=2).encode())
