"""A day made public: each user checked, bad ones left out and named, the manifest last."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable
from datetime import date, timedelta
from functools import partial
from typing import Any

from etl.storage import Storage
from etl.x import output, raw, rows
from etl.x.budget import spent
from etl.x.contract import POSTS
from etl.x.days import window
from etl.x.errors import QualityError, XError
from etl.x.extract import Extraction
from etl.x.manifest import CURATED, Entry, manifest_key, stored
from etl.x.prices import dollars
from etl.x.rows import Batch
from etl.x.users import User

CURATED_PARQUET = "curated/x/posts_parquet"
QUARANTINE = "quarantine/x/posts"
FORMATS = {"csv": (CURATED, output.to_csv), "parquet": (CURATED_PARQUET, output.to_parquet)}
# X has no more of a user, and says so with an empty answer.
NEWEST_POSTS = 3200

log = logging.getLogger(__name__)


def publish(
    storage: Storage,
    extractions: list[Extraction],
    day: date,
    formats: list[str] | None = None,
    formula_guard: bool = False,
) -> dict[str, Any]:
    """Publish users of a day, leaving those already published alone; return the manifest.

    Users who fail the checks are left out, with their rows in quarantine, and named in the manifest. A manifest that is
    not `complete` says that objects are being replaced: until it is written again the day is not published.
    Holds one user's rows at a time. Raises QualityError if no user of this run passes, XError if a format is
    unknown, StorageRefused.
    """
    formats = sorted(formats or ["csv"])
    if unknown := set(formats) - set(FORMATS):
        raise XError(f"unknown output formats {', '.join(sorted(unknown))}: use {' or '.join(FORMATS)}")
    before = stored(storage, day) or {"users": [], "complete": False}
    entries = {_key(entry): {**entry, "problems": entry.get("problems", [])} for entry in before["users"]}
    with tempfile.TemporaryDirectory() as folder:
        staging, asked = Storage(folder), []
        for extraction in extractions:
            known = _known(entries, extraction.user)
            entry = _entry(storage, staging, extraction, day, formats, formula_guard, known)
            entries.pop(_key(known) if known else "", None)
            entries[_key(entry)] = entry
            asked.append(entry)
        _refuse(asked, day)
        complete = before["complete"] or not _torn(storage, entries.values(), asked)
        _replace(storage, staging, before, day)
    users = sorted(entries.values(), key=lambda entry: (entry["username"], entry["id"]))
    said = {"complete": complete, "day": str(day), "formula_guard": formula_guard}
    manifest = {**_summed(users, *spent(storage, day)), **said}
    storage.put(manifest_key(day), json.dumps(manifest, indent=1).encode())
    return manifest


def _torn(storage: Storage, entries: Iterable[Entry], asked: list[Entry]) -> bool:
    """Name the users whose objects an interrupted publication has replaced; return whether there are any."""
    torn = [entry for entry in entries if entry not in asked and not all(map(partial(_fits, storage), _objects(entry)))]
    for entry in torn:
        entry["problems"] = [f"a publication of {entry['username']} was cut off: run the DAG for this user again"]
    return bool(torn)


def _objects(entry: Entry) -> list[dict[str, Any]]:
    return entry.get("objects", [])


def _fits(storage: Storage, written: dict[str, Any]) -> bool:
    try:
        return hashlib.sha256(storage.get(written["key"])).hexdigest() == written["sha256"]
    except FileNotFoundError:
        return False


def _summed(users: list[Entry], posts: int, mills: int) -> dict[str, Any]:
    return {
        "schema_version": POSTS.version,
        "columns": POSTS.names,
        "formats": sorted({one["key"].rsplit(".", 1)[1] for user in users for one in _objects(user)}),
        "rows": sum(user["rows"] for user in users),
        "posts_bought": posts,
        "usd": float(dollars(mills)),
        "users": users,
    }


def transform(storage: Storage, user: User, day: date) -> Batch:
    """Make one user's stored pages into clean rows; see rows.transform."""
    pages = raw.pages(storage, day, user.id)
    return rows.transform(user.username, ((page.body, page.fetched_at) for page in pages), *window(day))


def _key(entry: Entry) -> str:
    return entry["id"] or entry["username"]


def _known(entries: dict[str, Entry], user: User) -> Entry:
    """Return what was published of a user, who may have no id any more."""
    nameless = [entry for entry in entries.values() if not (user.id and entry["id"])]
    same = [entry for entry in nameless if entry["username"] == user.username]
    return entries.get(user.id or user.username) or (same[0] if same else {})


def _entry(
    storage: Storage,
    staging: Storage,
    extraction: Extraction,
    day: date,
    formats: list[str],
    formula_guard: bool,
    known: Entry,
) -> Entry:
    """Return what the manifest says of a user; the objects of one who passes are staged."""
    user = extraction.user
    about = {"id": user.id, "username": user.username, "status": user.status, "posts_total": user.posts_total}
    entry = {**about, "rows": 0, "pages": extraction.pages, "posts": extraction.posts, "problems": []}
    if user.status != "ok" and not extraction.pages:
        # Keep what was bought from users who are gone.
        return {**known, "status": user.status} if known else entry
    batch = transform(storage, user, day)
    entry |= _account(batch, extraction, day)
    entry["problems"] = [extraction.problem] if extraction.problem else rows.problems(batch, *window(day))
    _quarantine(storage, batch, user, day, entry["problems"], formula_guard)
    if entry["problems"]:
        return {**entry, "rows": known.get("rows", 0), "objects": _objects(known)}
    # Also in every format that already exists: readers of files must not see outdated rows.
    kept = [name for name in FORMATS if any(one["key"].endswith(f".{name}") for one in _objects(known))]
    written = _stage(staging, batch, user, day, sorted({*formats, *kept}), formula_guard)
    return {**entry, "objects": written}


def _quarantine(
    storage: Storage, batch: Batch, user: User, day: date, problems: list[str], formula_guard: bool
) -> None:
    """Keep the posts that are no rows, and where a user fails the rows too, each with the reasons."""
    folder = f"{QUARANTINE}/dt={day}/user_id={user.id}"
    if batch.rejected:
        lines = "".join(json.dumps(rejected) + "\n" for rejected in batch.rejected)
        storage.put(f"{folder}/rejected.jsonl", lines.encode())
    if problems:
        log.warning("%s on %s is not published: %s", user.username, day, "; ".join(problems))
        storage.put(f"{folder}/posts.csv", output.to_csv(batch.frame, formula_guard))
        storage.put(f"{folder}/problems.json", json.dumps(problems, indent=1).encode())


def _refuse(asked: list[Entry], day: date) -> None:
    """Raise QualityError if no user who was read passes: then X or this program is at fault."""
    read = [entry for entry in asked if entry["pages"] or entry["problems"]]
    if read and all(entry["problems"] for entry in read):
        said = " | ".join(f"{entry['username']}: {'; '.join(entry['problems'])}" for entry in read)
        raise QualityError(
            f"{day} is not published. {said}. The rows are below {QUARANTINE}/dt={day}/. Once the cause is fixed, "
            f"clear the run: nothing is bought again. To buy the day anew, delete {raw.POSTS}/dt={day}/"
        )


def _stage(
    staging: Storage, batch: Batch, user: User, day: date, formats: list[str], formula_guard: bool
) -> list[dict[str, Any]]:
    written = []
    for name in formats:
        folder, write = FORMATS[name]
        content = write(batch.frame, formula_guard) if name == "csv" else write(batch.frame)
        key = f"{folder}/dt={day}/user_id={user.id}/posts.{name}"
        staging.put(key, content)
        written.append({"key": key, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    return written


def _replace(storage: Storage, staging: Storage, before: dict[str, Any], day: date) -> None:
    """Write the staged objects that are missing; readers of the manifest see none half-written."""
    present = {key for folder, _ in FORMATS.values() for key in storage.keys(f"{folder}/dt={day}/")}
    known = [one for user in before["users"] for one in _objects(user)] if before["complete"] else []
    there = {one["key"]: one["sha256"] for one in known if one["key"] in present}
    fresh = [key for key in staging.keys("") if there.get(key) != hashlib.sha256(staging.get(key)).hexdigest()]
    if fresh and before["users"] and before["complete"]:
        storage.put(manifest_key(day), json.dumps({**before, "complete": False}, indent=1).encode())
    for key in fresh:
        content = staging.get(key)
        storage.put(key, content)
        if storage.size(key) != len(content):
            raise OSError(f"{key} was stored with another size: try again")


def _account(batch: Batch, extraction: Extraction, day: date) -> Entry:
    """What the manifest says of one user's posts."""
    reasons = Counter(rejected["reason"] for rejected in batch.rejected)
    warnings = []
    days = (batch.fetched_at - window(day)[0]) / timedelta(days=1) if batch.fetched_at else 0
    if batch.received * days >= NEWEST_POSTS * 0.75:
        warnings.append(f"X shows a user's newest {NEWEST_POSTS} posts: older ones of this day may be missing")
    elif batch.received == 0 and days > 2 and extraction.user.posts_total > NEWEST_POSTS:
        warnings.append(f"no posts, of an old day: X shows a user's newest {NEWEST_POSTS} only")
    if extraction.user.status != "ok":
        warnings.append(f"the user is {extraction.user.status} since: only the pages that were read before are here")
    if reasons:
        warnings.append(f"rejected: {', '.join(f'{count} with {reason}' for reason, count in sorted(reasons.items()))}")
    for warning in warnings:
        log.warning("%s on %s: %s", extraction.user.username, day, warning)
    return {
        "rows": len(batch.frame),
        "duplicates": batch.duplicates,
        "superseded": batch.superseded,
        "outside": batch.outside,
        "rejected": dict(reasons),
        "warnings": warnings,
    }
