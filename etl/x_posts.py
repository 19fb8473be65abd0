"""Posts as X sends them, made into clean rows, checked, and written as CSV or Parquet."""

from __future__ import annotations

import csv
import html
import io
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd

# The contract: names and order stay; whoever changes them raises SCHEMA_VERSION.
COLUMNS = ["username", "text", "like_count", "retweet_count", "created_at", "post_id", "lang", "fetched_at"]
SCHEMA_VERSION = 1
FORMULA = ("=", "+", "-", "@", "\t", "\r")
TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass
class Batch:
    """The rows of one user's day and what became of the other posts."""

    frame: pd.DataFrame
    received: int = 0
    announced: int = 0
    duplicates: int = 0
    superseded: int = 0
    outside: int = 0
    rejected: list[dict[str, str]] = field(default_factory=list)
    fetched_at: datetime | None = None


def transform(username: str, pages: Iterable[tuple[dict[str, Any], datetime]], start: datetime, end: datetime) -> Batch:
    """Make one user's pages (X's answer and the time it was fetched) into rows of [start, end).

    Of a post that came twice the later fetch counts, of an edited post the newest version. A post without
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
        whole = {post["id"]: post for posts in body.get("includes", {}).values() for post in posts if "text" in post}
        for post in posts:
            try:
                row = clean_post(username, post, fetched_at, whole)
            except ValueError as error:
                batch.rejected.append({"post_id": str(post.get("id", "")), "reason": str(error)})
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
    """Return one row with the keys of COLUMNS; times are datetimes in UTC. Raises ValueError with the reason.

    `whole` are the posts that others refer to, by id.
    """
    number = str(post.get("id", ""))
    if not re.fullmatch(r"[0-9]{1,19}", number):
        raise ValueError("no id")
    text = _text(post, whole or {})
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


def _text(post: dict[str, Any], whole: dict[str, Any]) -> str | None:
    """The whole text: of a long post its note, of a retweet the post that X cut at 140 characters."""
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

    Line ends become \\n, lone surrogates U+FFFD; control characters but \\n and \\t go.
    """
    text = html.unescape(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    return "".join(character for character in text if character in "\n\t" or unicodedata.category(character) != "Cc")


def to_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return rows as a frame with COLUMNS (strings, int64 counts, UTC times), oldest post first."""
    frame = pd.DataFrame(list(rows), columns=COLUMNS).astype(
        {
            **dict.fromkeys(["username", "text", "post_id", "lang"], "str"),
            **dict.fromkeys(["like_count", "retweet_count"], "int64"),
            **dict.fromkeys(["created_at", "fetched_at"], "datetime64[us, UTC]"),
        }
    )
    return frame.sort_values(["created_at", "post_id"], ignore_index=True)


def problems(batch: Batch, start: datetime, end: datetime) -> list[str]:
    """What speaks against publishing a batch; nothing if it is good."""
    frame = batch.frame
    found = []
    if list(frame.columns) != COLUMNS:
        found.append(f"the columns are {', '.join(frame.columns)}")
        return found
    if not frame.post_id.is_unique:
        found.append("a post is there twice")
    if frame.isna().to_numpy().any():
        found.append("a value is missing")
    if not ((frame.created_at >= start) & (frame.created_at < end)).all():
        found.append("a post lies outside the day")
    if batch.received != batch.announced:
        found.append(f"X announced {batch.announced} posts and sent {batch.received}")
    rest = batch.duplicates + batch.superseded + batch.outside + len(batch.rejected)
    if len(frame) + rest != batch.received:
        found.append(f"{batch.received} posts came, {len(frame)} are rows and {rest} are accounted for")
    if len(batch.rejected) * 2 > batch.received:
        found.append(f"{len(batch.rejected)} of {batch.received} posts were rejected: {batch.rejected[0]['reason']}")
    return found


def to_csv(frame: pd.DataFrame, formula_guard: bool = False) -> bytes:
    """Return the frame as UTF-8 CSV: all quoted, lines end with \\n, a header even for no rows.

    `formula_guard` puts ' before a cell that a spreadsheet would run; the text then differs from what was said.
    """
    frame = frame.assign(**{name: frame[name].dt.strftime(TIME) for name in ("created_at", "fetched_at")})
    if formula_guard:
        guarded = {name: frame[name].map(_guard) for name in ("username", "text", "lang")}
        frame = frame.assign(**guarded)
    buffer = io.StringIO(newline="")
    frame.to_csv(buffer, index=False, quoting=csv.QUOTE_ALL, lineterminator="\n")
    return buffer.getvalue().encode()


def _guard(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def to_parquet(frame: pd.DataFrame) -> bytes:
    """Return the frame as Parquet, times in UTC. Raises ModuleNotFoundError without pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    strings = {name: pa.string() for name in ("username", "text", "post_id", "lang")}
    counts = {name: pa.int64() for name in ("like_count", "retweet_count")}
    # Athena reads milliseconds.
    times = {name: pa.timestamp("ms", "UTC") for name in ("created_at", "fetched_at")}
    schema = pa.schema([(name, {**strings, **counts, **times}[name]) for name in COLUMNS])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False), buffer, compression="zstd")
    return buffer.getvalue()
