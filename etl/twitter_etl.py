"""Posts of X (Twitter) users as one CSV a day on S3.

Source: the X API v2 through tweepy, `GET /2/users/by` and `GET /2/users/:id/tweets`.
"""

from __future__ import annotations

import csv
import html
import io
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import requests
import tweepy
from requests.adapters import HTTPAdapter

TWEEPY_HOST = "https://api.twitter.com"
TIMEOUT = (5, 30)
PAGE_SIZE = 100
COLUMNS = ["username", "text", "like_count", "retweet_count", "created_at", "post_id"]


class XApiError(Exception):
    """X refused, and would again; the message says what to change."""


class RateLimited(Exception):
    """X refuses until a later time; trying again then helps."""


class BucketRefused(Exception):
    """The bucket is missing or closed to this host; the message says what to change."""


@dataclass(frozen=True)
class User:
    """A user whose posts can be read: the id lasts, the username may change its owner."""

    id: str
    username: str


class _Endpoint(HTTPAdapter):
    """Sends tweepy's requests to another base URL and gives each a timeout; tweepy can do neither."""

    def __init__(self, base_url: str) -> None:
        super().__init__()
        self.base_url = base_url.rstrip("/")

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        request.url = (request.url or "").replace(TWEEPY_HOST, self.base_url, 1)
        return super().send(request, **{**options, "timeout": TIMEOUT})


def x_client(bearer_token: str, base_url: str = "https://api.x.com") -> tweepy.Client:
    """Return a client of the X API at `base_url`, which must be https.

    Raises XApiError where the token is empty or the address is not https.
    """
    if not bearer_token:
        raise XApiError("there is no X bearer token: set airflow_connections.x_api.password, run playbooks/site.yml")
    if urlsplit(base_url).scheme != "https":
        raise XApiError(
            f"airflow_connections.x_api.host is {base_url}: use https, the token must not travel in the clear"
        )
    # wait_on_rate_limit stays off: it would hold the task's slot for up to 15 minutes.
    client = tweepy.Client(bearer_token, return_type=dict)
    client.session.mount(TWEEPY_HOST, _Endpoint(base_url))
    return client


def resolve_users(client: tweepy.Client, usernames: list[str]) -> list[User]:
    """Look up at most 100 usernames in one request, in their order and without doubles.

    Raises XApiError where X refuses or does not know one of them, RateLimited where it asks to wait.
    """
    wanted = list(dict.fromkeys(name.strip().lstrip("@").lower() for name in usernames if name.strip()))
    if not wanted:
        raise XApiError("no usernames to read: set airflow_variables.x_usernames, e.g. 'nasa,esa'")
    answer = _call(client.get_users, usernames=wanted)
    found = {user["username"].lower(): User(user["id"], user["username"].lower()) for user in answer.get("data", [])}
    missing = [name for name in wanted if name not in found]
    if missing:
        reasons = "; ".join(error.get("detail", "") for error in answer.get("errors", []))
        raise XApiError(f"X does not show {', '.join(missing)} ({reasons}): correct airflow_variables.x_usernames")
    return [found[name] for name in wanted]


def fetch_posts(client: tweepy.Client, user: User, start: datetime, end: datetime) -> Iterator[dict[str, Any]]:
    """Yield the user's posts of [start, end) as X sends them, newest first, page by page.

    Raises XApiError where X refuses the request or the user's posts, RateLimited where it asks to wait.
    """
    token = None
    while True:
        answer = _call(
            client.get_users_tweets,
            id=user.id,
            start_time=start,
            end_time=end,
            max_results=PAGE_SIZE,
            pagination_token=token,
            tweet_fields=["created_at", "public_metrics", "note_tweet"],
        )
        if answer.get("errors") and "data" not in answer:
            # A protected user's timeline answers 200; it must never pass for a day without posts.
            raise XApiError(f"X does not show the posts of {user.username}: {answer['errors'][0].get('detail')}")
        yield from answer.get("data", [])
        token = answer.get("meta", {}).get("next_token")
        if not token:
            return


def clean_post(user: User, post: dict[str, Any]) -> dict[str, Any]:
    """Return one row with the keys of COLUMNS; text is unescaped once and free of control characters."""
    note = post.get("note_tweet") or post.get("note_post") or {}
    metrics = post["public_metrics"]
    return {
        "username": user.username,
        "text": clean_text(note.get("text") or post["text"]),
        "like_count": int(metrics["like_count"]),
        "retweet_count": int(metrics["retweet_count"] if "retweet_count" in metrics else metrics["repost_count"]),
        "created_at": datetime.fromisoformat(post["created_at"]).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "post_id": str(post["id"]),
    }


def clean_text(text: str) -> str:
    """Undo X's HTML escapes, compose accents, and drop what breaks CSV readers.

    Line ends become \\n, lone surrogates U+FFFD; control characters but \\n and \\t go.
    """
    text = html.unescape(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    return "".join(character for character in text if character in "\n\t" or unicodedata.category(character) != "Cc")


def to_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows as a frame with COLUMNS, each post once, sorted by user and id."""
    frame = pd.DataFrame(list(rows), columns=COLUMNS).astype(
        {"like_count": "int64", "retweet_count": "int64", "post_id": "str"}
    )
    frame = frame.drop_duplicates("post_id", keep="last")
    return frame.sort_values(["username", "created_at", "post_id"], ignore_index=True)


def to_csv(frame: pd.DataFrame) -> bytes:
    """Return the frame as UTF-8 CSV, every text quoted, one header line even for no rows."""
    buffer = io.StringIO(newline="")
    frame.to_csv(buffer, index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    return buffer.getvalue().encode()


def object_key(day: datetime) -> str:
    """Return the one key of a day: curated/x/posts/dt=2026-11-21/posts.csv"""
    return f"curated/x/posts/dt={day:%Y-%m-%d}/posts.csv"


def store(filesystem: Any, bucket: str, key: str, content: bytes) -> str:
    """Write the bytes as one object (one PUT, so never half) and return its s3:// address.

    `filesystem` is an s3fs.S3FileSystem. Raises BucketRefused where the bucket is missing or closed to this host.
    """
    path = f"{bucket}/{key}"
    try:
        filesystem.pipe_file(path, content)
    except FileNotFoundError as error:
        raise BucketRefused(
            f"there is no bucket {bucket} ({error}): make it with playbooks/provision.yml, or correct "
            "airflow_variables.x_bucket"
        ) from error
    except PermissionError as error:
        raise BucketRefused(
            f"S3 refuses this host to write {path} (AccessDenied: {error}): give its role the policy again with "
            "playbooks/provision.yml, add the prefix to aws_bucket_prefixes, or correct airflow_variables.x_bucket"
        ) from error
    return f"s3://{path}"


def _call(method: Any, **arguments: Any) -> dict[str, Any]:
    try:
        return method(**arguments)
    except tweepy.Unauthorized:
        raise XApiError(
            "X refused the bearer token (401): renew it in X's developer portal, "
            "set airflow_connections.x_api.password and run playbooks/site.yml"
        ) from None
    except tweepy.Forbidden as error:
        raise XApiError(f"X forbids this app the request (403): attach the app to a project. X said: {error}") from None
    except tweepy.TooManyRequests as error:
        reset = error.response.headers.get("x-rate-limit-reset", "unknown")
        raise RateLimited(f"X's rate limit is used up until {reset} (Unix time); the task is tried again") from None
