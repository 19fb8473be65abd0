"""What was read from X, kept unchanged: one object per page or look-up, whose name holds its cost."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from etl.storage import Storage

USERS = "raw/x/users"
POSTS = "raw/x/posts"
RESERVED = "raw/x/reserved"
TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Page:
    """A stored page: where it is in the day, and X's answer."""

    number: int
    fetched_at: datetime
    end: datetime
    token: str | None
    oldest: datetime | None
    body: dict[str, Any] = field(repr=False)

    @property
    def next_token(self) -> str | None:
        """The token for the next page; None after the last."""
        return self.body.get("meta", {}).get("next_token")


@dataclass(frozen=True)
class Reservation:
    """What a user's reader had reserved, from a page on."""

    user_id: str
    at: datetime
    page: int
    posts: int


def folder(day: date, user_id: str) -> str:
    """Return where a user's pages of a day are."""
    return f"{POSTS}/dt={day}/user_id={user_id}/"


def charged(key: str) -> int:
    """Return how many posts or users X charged for an object."""
    return int(key.rsplit("-", 1)[1].split(".")[0])


def bought_on(key: str) -> str:
    """Return the day on which an object was bought; those from before 1.0 have the day of their posts."""
    found = re.search(r"-on-(\d{4}-\d\d-\d\d)-", key) or re.search(r"/dt=(\d{4}-\d\d-\d\d)/", key)
    if not found:
        raise ValueError(key)
    return found[1]


def number(key: str) -> int:
    """Return the number of a page."""
    return int(key.rsplit("/page-", 1)[1].split("-")[0])


def reserved_key(day: date, found: Reservation) -> str:
    """Return the key of a reservation."""
    at = f"{found.at:%Y%m%dT%H%M%S%f}"
    return f"{RESERVED}/dt={day}/user_id={found.user_id}/{at}-page-{found.page:04}-posts-{found.posts}"


def reservation(key: str) -> Reservation:
    """Return what a key of a reservation says."""
    said = re.fullmatch(r".*/user_id=(\d+)/(\w+)-page-(\d+)-posts-(\d+)", key)
    if not said:
        raise ValueError(key)
    at = datetime.strptime(said[2], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
    return Reservation(said[1], at, int(said[3]), int(said[4]))


# Two lines: ours, and X's answer byte for byte. Without a time of its own the same content packs to the same bytes.
def pack(head: dict[str, Any], content: bytes) -> bytes:
    """Return what is stored of an answer."""
    return gzip.compress(json.dumps(head).encode() + b"\n" + content, compresslevel=1, mtime=0)


def unpack(stored: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return our line and X's object."""
    head, content = gzip.decompress(stored).split(b"\n", 1)
    return json.loads(head), json.loads(content)


def put_page(storage: Storage, day: date, user_id: str, page: Page, content: bytes) -> str:
    """Store a page; return its key."""
    bought = len(page.body.get("data", [])) + sum(map(len, page.body.get("includes", {}).values()))
    head = {
        "fetched_at": page.fetched_at.strftime(TIME),
        "end": page.end.strftime(TIME),
        "token": page.token,
        "oldest": page.oldest.strftime(TIME) if page.oldest else None,
    }
    on = page.fetched_at.date()
    key = f"{folder(day, user_id)}page-{page.number:04}-on-{on}-posts-{bought:03}.jsonl.gz"
    storage.put(key, pack(head, content))
    return key


def get_page(storage: Storage, key: str) -> Page:
    """Read a page."""
    head, body = unpack(storage.get(key))
    oldest = datetime.fromisoformat(head["oldest"]) if head["oldest"] else None
    times = datetime.fromisoformat(head["fetched_at"]), datetime.fromisoformat(head["end"])
    return Page(number(key), *times, head["token"], oldest, body)


def pages(storage: Storage, day: date, user_id: str) -> Iterator[Page]:
    """Yield a user's pages of a day, one at a time."""
    for key in storage.keys(folder(day, user_id)):
        yield get_page(storage, key)
