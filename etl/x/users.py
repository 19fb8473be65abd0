"""Usernames, looked up once a day each."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

from etl.storage import Storage
from etl.x import raw
from etl.x.client import USERS_PER_REQUEST, Client, Dialect
from etl.x.errors import XError

KEPT = re.compile(r"/([a-z0-9_]+)-on-[\d-]+-users-[01]\.jsonl\.gz$")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class User:
    """A user by permanent id; the username may change owners.

    `status` is ok, or why there are no posts: not_found, suspended, protected. `dialect` is how X names fields.
    """

    id: str
    username: str
    status: str = "ok"
    posts_total: int = 0
    dialect: Dialect = "tweet"


def resolve_users(
    client: Client, storage: Storage, usernames: list[str], day: date, strict: bool = False
) -> list[User]:
    """Look the usernames up, 100 in a request, and return each user once with a status, in the order given.

    What X said of each is kept, so that nobody is looked up twice for a day. Raises XError where no user is ok, or,
    if `strict`, where one is not; RateLimited, Transient.
    """
    wanted = cleaned(usernames)
    keys = storage.keys(f"{raw.USERS}/dt={day}/")
    kept = {found[1]: key for key in keys if (found := KEPT.search(key))}
    said = {name: raw.unpack(storage.get(kept[name]))[1] for name in wanted if name in kept}
    # An older format, which holds a whole answer.
    for key in (key for key in keys if "/answer-" in key):
        found = _by_name(raw.unpack(storage.get(key))[1], wanted)
        said = {**{name: what for name, what in found.items() if "data" in what}, **said}
    missing = [name for name in wanted if name not in said]
    free: dict[str, bytes] = {}
    for first in range(0, len(missing), USERS_PER_REQUEST):
        answer = client.users(missing[first : first + USERS_PER_REQUEST])
        head = {"fetched_at": answer.fetched_at.strftime(raw.TIME)}
        for name, what in _by_name(answer.body, missing[first : first + USERS_PER_REQUEST]).items():
            said[name] = what
            bought = "data" in what
            key = f"{raw.USERS}/dt={day}/{name}-on-{answer.fetched_at.date()}-users-{bought:d}.jsonl.gz"
            content = raw.pack(head, json.dumps(what).encode())
            if bought:
                storage.put(key, content)
            else:
                free[key] = content
    users = _each_once(_user(name, said[name]) for name in wanted)
    _refuse(users, strict)
    # Free answers are kept only now: a run that failed because of its users asks again.
    for key, content in free.items():
        storage.put(key, content)
    return users


def _each_once(users: Iterable[User]) -> list[User]:
    found: dict[str, User] = {}
    for user in users:
        found.setdefault(user.id or user.username, user)
    return list(found.values())


def cleaned(usernames: list[str]) -> list[str]:
    """Return usernames as X compares them, each once. Raises XError for invalid ones."""
    wanted = list(dict.fromkeys(name.strip().lstrip("@").lower() for name in usernames if name.strip()))
    if not wanted:
        raise XError("no usernames to read: set airflow_variables.x_usernames, e.g. 'nasa,esa'")
    wrong = [name for name in wanted if not re.fullmatch(r"[a-z0-9_]{1,15}", name)]
    if wrong:
        raise XError(f"{', '.join(wrong)}: usernames of X have 1 to 15 letters, digits and _; correct x_usernames")
    return wanted


def status_of(error: dict[str, Any]) -> str:
    """Return what an error of one user means. X matches types on the last segment, and a suspended user by words."""
    if "suspended" in str(error.get("detail", "")):
        return "suspended"
    problem = str(error.get("type", "")).rsplit("/", 1)[-1]
    return "protected" if problem == "not-authorized-for-resource" else "not_found"


def _by_name(body: dict[str, Any], names: list[str]) -> dict[str, dict[str, Any]]:
    """Return what an answer says of each name: its `data`, or its `error`."""
    found = {str(user.get("username", "")).lower(): {"data": user} for user in body.get("data", [])}
    errors = {str(error.get("value", "")).lower(): {"error": error} for error in body.get("errors", [])}
    return {name: found.get(name) or errors.get(name) or {"error": {}} for name in names}


def _user(name: str, said: dict[str, Any]) -> User:
    user = said.get("data", {})
    if not re.fullmatch(r"[0-9]+", str(user.get("id", ""))):
        return User("", name, status_of(said.get("error", {})))
    metrics = user.get("public_metrics") or {}
    total = metrics.get("tweet_count") or metrics.get("post_count") or 0
    newer = "post_count" in metrics and "tweet_count" not in metrics
    status = "protected" if user.get("protected") else "ok"
    return User(str(user["id"]), name, status, int(total), "post" if newer else "tweet")


def _refuse(users: list[User], strict: bool) -> None:
    bad = {user.username: user.status for user in users if user.status != "ok"}
    for username, status in bad.items():
        log.warning("%s: %s", username, status)
    if len(bad) == len(users) or (strict and bad):
        said = ", ".join(f"{username} ({status})" for username, status in bad.items())
        raise XError(f"X does not show {said}: correct airflow_variables.x_usernames")
