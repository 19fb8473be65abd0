"""What a query asks for, each parameter checked as the API checks it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from lab.x_api.refusals import invalid

OLDEST_TIME = datetime(2010, 11, 6, tzinfo=UTC)


def wanted_fields(query: dict[str, str], parameter: str, default: set[str], known: set[str]) -> set[str]:
    asked = set(filter(None, query.get(parameter, "").split(",")))
    if asked - known:
        wrong = sorted(asked - known)
        raise invalid(
            parameter,
            query[parameter],
            f"The `{parameter}` query parameter value {wrong} is not one of {sorted(known)}",
        )
    return default | asked


def whole_number(query: dict[str, str], name: str, default: int | None, least: int, most: int) -> int | None:
    text = query.get(name)
    if text is None:
        return default
    if not text.isdigit() or not least <= int(text) <= most:
        raise invalid(name, text, f"The `{name}` query parameter value [{text}] is not between {least} and {most}")
    return int(text)


def moment(query: dict[str, str], name: str, now: datetime) -> datetime | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if not found or not found.tzinfo or found.microsecond:
        raise invalid(name, text, f"The `{name}` query parameter value [{text}] is not a valid date")
    if found < OLDEST_TIME or found > now - timedelta(seconds=10):
        raise invalid(
            name, text, f"Invalid '{name}':'{text}'. '{name}' must be on or after 2010-11-06 and 10 seconds before now"
        )
    return found
