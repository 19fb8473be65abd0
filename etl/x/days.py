"""UTC days."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from etl.x.errors import XError


def window(day: date) -> tuple[datetime, datetime]:
    """Return the UTC day as [start, end)."""
    start = datetime.combine(day, time(), UTC)
    return start, start + timedelta(days=1)


def day_of(start: datetime, end: datetime) -> date:
    """Return the day that [start, end) is. Raises XError where it is not one whole UTC day that is over."""
    day = start.astimezone(UTC).date()
    if (start, end) != window(day):
        raise XError(f"{start} to {end} is not one UTC day: keep the schedule at 0 0 * * * in UTC")
    if end > datetime.now(UTC) - timedelta(seconds=30):
        raise XError(f"{day} is not over: X has more posts to come. Ask for a day before it")
    return day
