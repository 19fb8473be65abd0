"""Posts as X sends them, made into clean rows and checked."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from etl.x.contract import POSTS

FEW = 5
# All of Unicode's controls but \n and \t.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass
class Batch:
    """The rows of one user's day and what became of the other posts."""

    frame: pd.DataFrame
    received: int = 0
    announced: int = 0
    duplicates: int = 0
    superseded: int = 0
    outside: int = 0
    rejected: list[dict[str, Any]] = field(default_factory=list)
    fetched_at: datetime | None = None


def transform(username: str, pages: Iterable[tuple[dict[str, Any], datetime]], start: datetime, end: datetime) -> Batch:
    """Make one user's pages (X's answer and the time it was fetched) into rows of [start, end).

    If a post came twice, the later fetch counts; if it was edited, the newest version. A post without
    id, text, time or counts is rejected with its reason.
    """
    batch = Batch(pd.DataFrame())
    rows: dict[str, dict[str, Any]] = {}
    chains: dict[str, str] = {}
    for body, fetched_at in pages:
        posts = body.get("data", [])
        batch.received += len(posts)
        batch.fetched_at = fetched_at
        batch.announced += int(body.get("meta", {}).get("result_count", len(posts)))
        included = [post for posts in body.get("includes", {}).values() for post in posts if isinstance(post, dict)]
        whole = {post["id"]: post for post in included if {"id", "text"} <= post.keys()}
        for post in posts:
            try:
                row = clean_post(username, post, fetched_at, whole)
            except ValueError as error:
                batch.rejected.append({"post_id": _id(post), "reason": str(error), "post": post})
                continue
            if not start <= row["created_at"] < end:
                batch.outside += 1
                continue
            number = row["post_id"]
            batch.duplicates += number in rows
            rows[number] = row
            history = post.get("edit_history_tweet_ids") or post.get("edit_history_post_ids") or [number]
            chains[number] = str(history[0])
    newest: dict[str, str] = {}
    for number in rows:
        newest[chains[number]] = max(number, newest.get(chains[number], number), key=int)
    batch.superseded = len(rows) - len(newest)
    batch.frame = to_frame(rows[number] for number in newest.values())
    return batch


def clean_post(
    username: str, post: dict[str, Any], fetched_at: datetime, whole: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return one row with the keys of POSTS; times are datetimes in UTC. Raises ValueError with the reason.

    `whole` are the posts that others refer to, by id.
    """
    if not isinstance(post, dict):
        raise ValueError("no post")
    try:
        return _row(username, post, fetched_at, whole or {})
    except (TypeError, AttributeError, KeyError, OverflowError) as error:
        raise ValueError(f"not as X describes a post: {type(error).__name__}") from error


def _id(post: Any) -> str:
    return str(post.get("id", "")) if isinstance(post, dict) else ""


def _row(username: str, post: dict[str, Any], fetched_at: datetime, whole: dict[str, Any]) -> dict[str, Any]:
    number = str(post.get("id", ""))
    if not re.fullmatch(r"[0-9]{1,19}", number):
        raise ValueError("no id")
    text = _text(post, whole)
    if text is None:
        raise ValueError("no text")
    try:
        created_at = datetime.fromisoformat(post["created_at"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError):
        raise ValueError("no created_at") from None
    metrics = post.get("public_metrics") or {}
    return {
        "username": username,
        "text": clean_text(text),
        "like_count": _count(metrics, "like_count"),
        "retweet_count": _count(metrics, "retweet_count", "repost_count"),
        "created_at": created_at,
        "post_id": number,
        "lang": str(post.get("lang") or "und"),
        "fetched_at": fetched_at,
    }


def lacking(posts: list[dict[str, Any]]) -> list[str]:
    """Return the fields that were asked for and that no post of a page has."""
    asked = {
        "created_at": lambda post: post.get("created_at"),
        "public_metrics": lambda post: post.get("public_metrics"),
    }
    whole = [post for post in posts if isinstance(post, dict)]
    # In a small sample, every post may happen to lack it.
    return [name for name, value in asked.items() if len(whole) >= FEW and not any(map(value, whole))]


def _text(post: dict[str, Any], whole: dict[str, Any]) -> str | None:
    """The whole text: a long post's note, or for a retweet the post that X cut at 140 characters."""
    note = post.get("note_tweet") or post.get("note_post") or {}
    text = note.get("text") or post.get("text")
    for reference in post.get("referenced_tweets") or post.get("referenced_posts") or []:
        said = whole.get(reference.get("id"))
        cut = re.match(r"RT @\w{1,15}: ", text or "")
        if reference.get("type") in {"retweeted", "reposted"} and said and cut:
            return cut[0] + (_text(said, {}) or "")
    return text


def _count(metrics: dict[str, Any], *names: str) -> int:
    for name in names:
        if name in metrics:
            if re.fullmatch(r"[0-9]{1,18}", str(metrics[name])):
                return int(metrics[name])
            raise ValueError(f"{name} is {metrics[name]!r}")
    raise ValueError(f"no {names[0]}")


def clean_text(text: str) -> str:
    """Undo X's HTML escapes once, compose accents, and drop what breaks CSV readers.

    Line ends become \\n, lone surrogates U+FFFD; control characters except \\n and \\t are removed.
    """
    text = html.unescape(text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def to_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return rows as a frame with the columns and types of POSTS, oldest post first."""
    frame = POSTS.typed(pd.DataFrame(list(rows), columns=POSTS.names))
    return frame.sort_values(["created_at", "post_id"], ignore_index=True)


def problems(batch: Batch, start: datetime, end: datetime) -> list[str]:
    """Reasons not to publish a batch; empty if it is good."""
    frame = batch.frame
    if found := POSTS.problems(frame):
        return found
    if not ((frame.created_at >= start) & (frame.created_at < end)).all():
        found.append("a post is outside the day")
    if batch.received != batch.announced:
        found.append(f"X announced {batch.announced} posts and sent {batch.received}")
    rest = batch.duplicates + batch.superseded + batch.outside + len(batch.rejected)
    if len(frame) + rest != batch.received:
        found.append(f"{batch.received} posts came, {len(frame)} are rows and {rest} are accounted for")
    if len(batch.rejected) * 2 > batch.received:
        found.append(f"{len(batch.rejected)} of {batch.received} posts were rejected: {batch.rejected[0]['reason']}")
    return found
