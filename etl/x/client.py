"""The X API v2 through tweepy: typed errors, a time limit for each request, both sets of its field names.

Source: `GET /2/users/by` and `GET /2/users/:id/tweets`.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

import requests
import tenacity
import tweepy
import urllib3
from requests.adapters import HTTPAdapter

from etl.x import refusals
from etl.x.errors import BadPayload, OtherNames, Transient, XError

Dialect = Literal["tweet", "post"]

# A long post's whole text, and the posts that one refers to.
NAMES: dict[Dialect, tuple[str, str]] = {
    "tweet": ("note_tweet", "referenced_tweets.id"),
    "post": ("note_post", "referenced_posts"),
}
BASE_URL = "https://api.x.com"
TWEEPY_HOST = "https://api.twitter.com"
CONNECT_SECONDS, READ_SECONDS = 5, 30
# No answer takes longer; a server that sends a byte now and then would hold a task for hours.
ANSWER_SECONDS = 120
TRIES = 4
LONGEST_PAUSE_SECONDS = 60
USERS_PER_REQUEST = 100

# At DEBUG it writes the token, and it warns of each field of the newer dialect.
logging.getLogger("tweepy.client").setLevel(logging.ERROR)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys:
    """The bearer token of an app, or the four values of OAuth 1.0a: one of both."""

    bearer_token: str = ""
    consumer_key: str = ""
    consumer_secret: str = ""
    access_token: str = ""
    access_token_secret: str = ""

    @property
    def signs(self) -> bool:
        """Whether requests are signed for a user."""
        return all([self.consumer_key, self.consumer_secret, self.access_token, self.access_token_secret])


@dataclass(frozen=True)
class Answer:
    """What X sent: the bytes as they came, the object in them, and the time by X's clock."""

    content: bytes
    body: dict[str, Any]
    fetched_at: datetime


class _Endpoint(HTTPAdapter):
    """Sends tweepy's requests to another base URL and bounds their time; tweepy can do neither."""

    def __init__(self, base_url: str) -> None:
        super().__init__()
        self.base_url = base_url.rstrip("/")

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        request.url = (request.url or "").replace(TWEEPY_HOST, self.base_url, 1)
        timeout = (CONNECT_SECONDS, READ_SECONDS)
        end = time.monotonic() + ANSWER_SECONDS
        response = super().send(request, **{**options, "timeout": timeout, "stream": True})
        content = bytearray()
        try:
            while chunk := response.raw.read1(2**16, decode_content=True):
                content += chunk
                if time.monotonic() > end:
                    raise requests.ReadTimeout(f"the answer was not whole after {ANSWER_SECONDS} s")
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error) from error
        finally:
            # Unread bytes must not be taken for the next answer.
            response.raw.close()
        response.raw = io.BytesIO(content)
        return response


class Client:
    """A client of the X API.

    Raises XError where there is no key, or where `base_url` is neither https nor loopback.
    """

    def __init__(self, keys: Keys, base_url: str = BASE_URL) -> None:
        if not keys.bearer_token and not keys.signs:
            raise XError("there is no X bearer token: set airflow_connections.x_api.password, run playbooks/site.yml")
        base_url = base_url.rstrip("/")
        url = urlsplit(base_url)
        if url.scheme != "https" and not (url.scheme == "http" and url.hostname in {"127.0.0.1", "::1", "localhost"}):
            raise XError(
                f"airflow_connections.x_api.host is {base_url}: use https, the token must not travel in the clear"
            )
        self._user_auth = not keys.bearer_token
        self._dialect: Dialect | None = None
        # wait_on_rate_limit stays off: without a header it retries at once, and it would block the task's slot.
        self._client = tweepy.Client(
            keys.bearer_token or None,
            *[keys.consumer_key, keys.consumer_secret, keys.access_token, keys.access_token_secret],
            return_type=requests.Response,
        )
        # A signature covers the address: a signed request goes to tweepy's address unless another one is set.
        signed_for_x = self._user_auth and base_url == BASE_URL
        self._client.session.mount(TWEEPY_HOST, _Endpoint(TWEEPY_HOST if signed_for_x else base_url))
        # Before tweepy looks: it trips over errors that are not JSON objects.
        self._client.session.hooks["response"].append(refusals.check)

    def users(self, usernames: list[str]) -> Answer:
        """Ask for at most 100 users by name. Raises XError, RateLimited, Transient."""
        return _patiently(
            lambda: self._client.get_users(
                usernames=usernames, user_fields=["protected", "public_metrics"], user_auth=self._user_auth
            ),
            expected={"data", "errors"},
        )

    def posts(
        self,
        user_id: str,
        start: datetime,
        end: datetime,
        token: str | None = None,
        size: int = 100,
        expand: bool = True,
        dialect: Dialect = "tweet",
    ) -> Answer:
        """Ask for one page of 5 to 100 posts of [start, end), newest first.

        `expand` also asks for the posts that these refer to, which X charges too. Where X does not know the field names
        of a `dialect`, which costs nothing, it is asked with the others from then on.
        Raises XError, TokenExpired, RateLimited, Transient.
        """
        first: Dialect = self._dialect or dialect
        others: dict[Dialect, Dialect] = {"tweet": "post", "post": "tweet"}
        ask = partial(self._posts, user_id, start, end, token, size, expand)
        try:
            return ask(first)
        except OtherNames:
            answer = ask(others[first])
            self._dialect = others[first]
            return answer

    def _posts(
        self,
        user_id: str,
        start: datetime,
        end: datetime,
        token: str | None,
        size: int,
        expand: bool,
        dialect: Dialect,
    ) -> Answer:
        note, expansion = NAMES[dialect]
        fields = {f"{dialect}.fields": ["created_at", "lang", "public_metrics", note]}
        if expand and dialect == "tweet":
            fields["tweet.fields"].append("referenced_tweets")
        return _patiently(
            lambda: self._client.get_users_tweets(
                id=user_id,
                start_time=start,
                end_time=end,
                max_results=size,
                pagination_token=token,
                user_auth=self._user_auth,
                **fields,
                **({"expansions": [expansion]} if expand else {}),
            ),
            expected={"data", "meta", "errors"},
        )


def _patiently(ask: Callable[[], requests.Response], expected: set[str]) -> Answer:
    """Ask again where X or the network failed, at random times so that many tasks do not come back together."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Transient),
        stop=tenacity.stop_after_attempt(TRIES),
        wait=tenacity.wait_random_exponential(max=LONGEST_PAUSE_SECONDS),
        before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
    return retrying(_once, ask, expected)


def _once(ask: Callable[[], requests.Response], expected: set[str]) -> Answer:
    try:
        response = ask()
        body = json.loads(response.content)
    except requests.RequestException as error:
        # A refusal is none of these, so it passes through.
        raise Transient(f"the network failed: {type(error).__name__}: {error}") from error
    except ValueError as error:
        raise BadPayload(f"X sent JSON that does not parse: {error}") from error
    except OSError as error:
        raise Transient(f"the network failed: {error}") from error
    if not isinstance(body, dict) or not expected & set(body):
        raise BadPayload(f"X's answer has none of {', '.join(sorted(expected))}: {response.content[:200]!r}")
    return Answer(response.content, body, refusals.server_time(response.headers))
