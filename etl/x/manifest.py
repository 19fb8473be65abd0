"""The manifest, which marks a day as complete, and what others learn of it."""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
from datetime import date, timedelta
from typing import Any

from etl.storage import Storage

CURATED = "curated/x/posts"
DRIFT_DAYS = 7
Entry = dict[str, Any]

log = logging.getLogger(__name__)


def event(storage: Storage, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what others are told of a published day: day, rows, users, usd, sha256, manifest, drift, missing."""
    day = date.fromisoformat(manifest["day"])
    warning = drift(storage, day)
    if warning:
        log.warning("%s", warning)
    return {
        "day": manifest["day"],
        "rows": manifest["rows"],
        "users": sum(user["status"] == "ok" for user in manifest["users"]),
        "usd": manifest["usd"],
        "sha256": hashlib.sha256(storage.get(manifest_key(day))).hexdigest(),
        "manifest": f"{storage.address}/{manifest_key(day)}",
        "drift": warning,
        "missing": missing(manifest),
    }


def missing(manifest: dict[str, Any]) -> list[str]:
    """Return a line for each user whose posts of the day are not there or not all there, with the reason."""
    lines = []
    for user in manifest["users"]:
        rejected = [f"{count} posts with {reason}" for reason, count in sorted(user.get("rejected", {}).items())]
        status = [f"the user is {user['status']}"] if user["status"] != "ok" else []
        if reasons := [*status, *user.get("problems", []), *rejected]:
            lines.append(f"{user['username']}: {'; '.join(reasons)}")
    return lines


def manifest_key(day: date) -> str:
    """Return the key of a day's manifest."""
    return f"{CURATED}/dt={day}/_manifest.json"


def manifest_of(storage: Storage, day: date) -> dict[str, Any] | None:
    """Return a day's manifest, or None where the day is not published. Raises StorageRefused."""
    found = stored(storage, day)
    return found if found and found["complete"] else None


def stored(storage: Storage, day: date) -> dict[str, Any] | None:
    """Return a day's manifest as it is, whether it is complete or not."""
    # S3 says "forbidden" of a missing object to a role that may list some prefixes alone: so look first.
    if manifest_key(day) not in storage.keys(f"{CURATED}/dt={day}/"):
        return None
    return {"complete": True, **json.loads(storage.get(manifest_key(day)))}


def drift(storage: Storage, day: date) -> str | None:
    """Report if a day's rows are less than half or more than twice the median of the seven days before."""
    counted = (manifest_of(storage, day) or {}).get("rows", 0)
    before = [manifest_of(storage, day - timedelta(days=ago)) for ago in range(1, DRIFT_DAYS + 1)]
    counts = [manifest["rows"] for manifest in before if manifest]
    if len(counts) < 3:
        return None
    median = statistics.median(counts)
    if median / 2 <= counted <= median * 2:
        return None
    return f"{counted} rows on {day}, where the days before have {median:.0f}"
