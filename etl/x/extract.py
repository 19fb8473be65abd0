"""One user's day, read from X page by page; each page is stored before the next is asked for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from etl.storage import Storage
from etl.x import raw, rows
from etl.x.budget import Budget, Reader
from etl.x.client import Answer, Client
from etl.x.days import window
from etl.x.errors import BadPayload, TokenExpired, XError
from etl.x.users import User, status_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """What one user's day consists of; `posts` are those X charged, `problem` is why it must not be published."""

    user: User
    pages: int = 0
    posts: int = 0
    problem: str = ""


class _Closed(Exception):
    """X shows the user no more."""


def extract(
    client: Client,
    storage: Storage,
    user: User,
    day: date,
    budget: Budget | None = None,
    expand: bool = True,
    advance: Callable[[int], None] = lambda posts: None,
) -> Extraction:
    """Read one user's posts of a day, starting after the stored pages.

    `expand` also buys the posts that these refer to, which gives retweets their whole text. `advance` gets the number
    of posts of each new page. If a user's pages lack a requested field, reading stops and the user has a `problem`.
    Raises XError (including BudgetSpent), BudgetReserved, RateLimited, Transient; a later call then resumes.
    """
    timeline = _Timeline(client, storage, user, day, budget or Budget(), expand)
    try:
        while user.status == "ok" and not timeline.whole:
            advance(timeline.go_on())
    except _Closed as closed:
        user = replace(user, status=str(closed))
        log.warning("%s: %s, %d pages were read before", user.username, closed, len(timeline.kept))
    finally:
        timeline.reader.release()
    posts = sum(map(raw.charged, timeline.kept))
    return Extraction(user, len(timeline.kept), posts, timeline.problem)


class _Timeline:
    """How far one user's day has been read."""

    def __init__(self, client: Client, storage: Storage, user: User, day: date, budget: Budget, expand: bool) -> None:
        self._client, self._storage, self._user, self._day, self._expand = client, storage, user, day, expand
        self.reader = Reader(storage, day, user.id, budget, expand)
        self._start, self._end = window(day)
        self.kept = storage.keys(raw.folder(day, user.id)) if user.id else []
        self._last = raw.get_page(storage, self.kept[-1]) if self.kept else None
        self._token = self._last.next_token if self._last else None
        self._end = self._last.end if self._last else self._end
        self._ended = self._last is not None and not self._token
        self._tokens: set[str] = set()
        self._standstill = 0
        self.problem = self._lacking(self._last)

    @property
    def whole(self) -> bool:
        """Whether nothing is left to ask for."""
        return bool(self.problem) or self._ended

    def go_on(self) -> int:
        """Read and store the next page; return what it cost in posts. Raises _Closed."""
        answer = None
        # A repeated token would loop.
        if self._token not in self._tokens:
            self._tokens |= {self._token} - {None}
            number = self._last.number + 1 if self._last else 1
            size = self.reader.page(number)
            with contextlib.suppress(TokenExpired):
                answer = self._client.posts(
                    self._user.id, self._start, self._end, self._token, size, self._expand, self._user.dialect
                )
        if answer is None:
            self._go_by_time()
            return 0
        return self._keep(answer)

    def _go_by_time(self) -> None:
        """Ask for the rest by time. Once, that may gain nothing: all posts of a page may share a second."""
        left = _behind(self._last, self._end)
        self._standstill = self._standstill + 1 if left == self._end else 0
        if self._standstill > 1:
            raise XError(f"X repeats the page before {self._end} again and again: try later, nothing is lost")
        self._token, self._end = None, left
        self._tokens.clear()

    def _keep(self, answer: Answer) -> int:
        body = answer.body
        refused = [error for error in body.get("errors", []) if error.get("resource_type") == "user"]
        if refused and "data" not in body:
            # These come with status 200; they must never pass for a day without posts.
            raise _Closed(status_of(refused[0]))
        posts = body.get("data", [])
        if "meta" not in body or not isinstance(posts, list):
            raise BadPayload(f"X's page for {self._user.username} has no meta: {answer.content[:200]!r}")
        times = [time for time in map(_created, posts) if time]
        times += [self._last.oldest] if self._last and self._last.oldest else []
        page = raw.Page(
            self._last.number + 1 if self._last else 1,
            answer.fetched_at,
            self._end,
            self._token,
            min(times, default=None),
            body,
        )
        key = raw.put_page(self._storage, self._day, self._user.id, page, answer.content)
        self.kept.append(key)
        self._last, self._token = page, page.next_token
        self._ended = not self._token
        self.problem = self._lacking(page)
        self.reader.take(raw.charged(key))
        return raw.charged(key)

    def _lacking(self, page: raw.Page | None) -> str:
        """Name the requested fields that no post of a page has; empty if none is missing."""
        names = rows.lacking(page.body.get("data", [])) if page else []
        if not names:
            return ""
        return (
            f"X sent page {page.number} of {self._user.username} without {', '.join(names)}, which was asked for: "
            f"no further page was bought. Once X sends it, delete {self.kept[-1]} and clear the run"
        )


def _behind(last: raw.Page | None, end: datetime) -> datetime:
    """The end of the window still to read after the stored pages; its newest second is read again."""
    if last is None or last.oldest is None:
        return end
    return min(end, last.oldest.replace(microsecond=0) + timedelta(seconds=1))


def _created(post: Any) -> datetime | None:
    """When a post was written, if it says so."""
    try:
        return datetime.fromisoformat(post["created_at"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
