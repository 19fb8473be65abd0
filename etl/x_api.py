"""The X API v2 through tweepy: typed errors, a time limit for each request, both dialects of its fields.

Source: `GET /2/users/by` and `GET /2/users/:id/tweets`.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import requests
import tenacity
import tweepy
import urllib3
from requests.adapters import HTTPAdapter

Dialect = Literal["tweet", "post"]

BASE_URL = "https://api.x.com"
TWEEPY_HOST = "https://api.twitter.com"
CONNECT_SECONDS, READ_SECONDS = 5, 30
# No answer takes longer; a server that sends a byte now and then would hold a task for hours.
ANSWER_SECONDS = 120
TRIES = 4
LONGEST_PAUSE_SECONDS = 60
LONGEST_WINDOW_SECONDS = 960
USERS_PER_REQUEST = 100
POST_USD, USER_USD = 0.005, 0.010

# At DEBUG it writes the token, and it warns of each field of the newer dialect.
logging.getLogger("tweepy.client").setLevel(logging.ERROR)
log = logging.getLogger(__name__)


class XApiError(Exception):
    """X refused, and would again; the message says what to change."""


class AuthError(XApiError):
    """The key is wrong (401) or its app may not do this (403)."""


class UsageCapped(XApiError):
    """The month's posts are used up, or the spend limit is reached; waiting for the window does not help."""


class CreditsDepleted(XApiError):
    """The account has no money left (402)."""


class TokenExpired(XApiError):
    """X does not know the page token any more; the pages after it must be asked for by time."""


class Transient(Exception):
    """X or the network failed, several times in a row; later it may work."""


class BadPayload(Transient):
    """X answered what is no answer: cut JSON, or an object without posts, count and errors."""


class RateLimited(Exception):
    """X refuses for `seconds` more, reckoned by its own clock."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"X's rate limit is used up for {seconds:.0f} s more; then it goes on where it stopped")
        self.seconds = seconds


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
            # What is left unread must not be taken for the next answer.
            response.raw.close()
        response._content, response._content_consumed = bytes(content), True
        return response


class Client:
    """A client of the X API.

    Raises XApiError where there is no key, or where `base_url` is neither https nor loopback.
    """

    def __init__(self, keys: Keys, base_url: str = BASE_URL, dialect: Dialect = "tweet") -> None:
        if not keys.bearer_token and not keys.signs:
            raise XApiError(
                "there is no X bearer token: set airflow_connections.x_api.password, run playbooks/site.yml"
            )
        url = urlsplit(base_url)
        if url.scheme != "https" and not (url.scheme == "http" and url.hostname in {"127.0.0.1", "::1", "localhost"}):
            raise XApiError(
                f"airflow_connections.x_api.host is {base_url}: use https, the token must not travel in the clear"
            )
        if dialect not in ("tweet", "post"):
            raise XApiError(f"the field dialect is {dialect!r}: use tweet, or post for X's newer names")
        self._dialect, self._user_auth = dialect, not keys.bearer_token
        # wait_on_rate_limit stays off: without a header it asks again at once, and it would hold the task's slot.
        self._client = tweepy.Client(
            keys.bearer_token or None,
            *[keys.consumer_key, keys.consumer_secret, keys.access_token, keys.access_token_secret],
            return_type=requests.Response,
        )
        # A signature covers the address: a signed request goes where tweepy says, unless somebody wants it elsewhere.
        signed_for_x = self._user_auth and base_url == BASE_URL
        self._client.session.mount(TWEEPY_HOST, _Endpoint(TWEEPY_HOST if signed_for_x else base_url))
        # Before tweepy looks: it trips over errors that are not JSON objects.
        self._client.session.hooks["response"].append(_check)

    def users(self, usernames: list[str]) -> Answer:
        """Ask for at most 100 users by name. Raises XApiError, RateLimited, Transient."""
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
    ) -> Answer:
        """Ask for one page of 5 to 100 posts of [start, end), newest first.

        `expand` also asks for the posts that these refer to, which X charges too.
        Raises XApiError, TokenExpired, RateLimited, Transient.
        """
        fields: dict[str, Any] = {f"{self._dialect}.fields": ["created_at", "lang", "public_metrics"]}
        names = fields[f"{self._dialect}.fields"]
        names.append("note_tweet" if self._dialect == "tweet" else "note_post")
        if expand and self._dialect == "tweet":
            names.append("referenced_tweets")
            fields["expansions"] = ["referenced_tweets.id"]
        elif expand:
            fields["expansions"] = ["referenced_posts"]
        return _patiently(
            lambda: self._client.get_users_tweets(
                id=user_id,
                start_time=start,
                end_time=end,
                max_results=size,
                pagination_token=token,
                user_auth=self._user_auth,
                **fields,
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
        # A refusal passes through: it is none of these.
        raise Transient(f"the network failed: {type(error).__name__}: {error}") from error
    except ValueError as error:
        raise BadPayload(f"X sent JSON that does not parse: {error}") from error
    except OSError as error:
        raise Transient(f"the network failed: {error}") from error
    if not isinstance(body, dict) or not expected & set(body):
        raise BadPayload(f"X's answer has none of {', '.join(sorted(expected))}: {response.content[:200]!r}")
    return Answer(response.content, body, _server_time(response.headers))


def _server_time(headers: Mapping[str, str]) -> datetime:
    """The time by X's clock, for ours may be wrong."""
    try:
        return parsedate_to_datetime(headers["date"]).astimezone(UTC)
    except (KeyError, ValueError):
        return datetime.now(UTC).replace(microsecond=0)


def _check(response: requests.Response, **_: Any) -> None:
    """Raise the error that an answer is."""
    status = response.status_code
    if status == 200:
        return
    try:
        body = json.loads(response.content)
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    said = body.get("detail") or body.get("title") or response.content[:200].decode(errors="replace")
    problem = str(body.get("type", "")).rsplit("/", 1)[-1]
    if status == 402 or problem == "credits":
        raise CreditsDepleted(f"the X account has no credits (402): buy some in X's developer console. X said: {said}")
    if problem == "usage-capped" or body.get("title") == "UsageCapExceeded":
        raise UsageCapped(
            f"the X account's cap is reached ({body.get('period', 'unknown period')}): raise the spend limit in X's "
            f"developer console, or wait for the next period. X said: {said}"
        )
    if status == 429 and _day_is_used_up(response.headers):
        raise UsageCapped("X's limit of requests in 24 hours is used up: clear the failed tasks when the day is over")
    if status == 429:
        raise RateLimited(_pause(response.headers))
    if status == 401:
        raise AuthError(
            "X refused the key (401): renew it in X's developer console, set airflow_connections.x_api.password "
            "(or the four keys in its extra) and run playbooks/site.yml"
        )
    if status == 403:
        raise AuthError(f"X forbids this app the request (403): attach the app to a project. X said: {said}")
    if status >= 500 or status == 408:
        raise Transient(f"X answered {status}: {said}")
    errors = [error for error in body.get("errors") or [] if isinstance(error, dict)]
    parameters = [name for error in errors for name in error.get("parameters") or {}]
    if "pagination_token" in parameters:
        raise TokenExpired(f"X does not know the page token any more ({status})")
    detail = "; ".join(str(error.get("message", error)) for error in errors)
    raise XApiError(f"X refused the request ({status}): {detail or said}")


def _pause(headers: Mapping[str, str]) -> float:
    """Seconds until the limit's window ends, and up to 5 more, for all tasks wait for the same moment."""
    reset = headers.get("x-rate-limit-reset", "")
    left = int(reset) - _server_time(headers).timestamp() if re.fullmatch(r"\d+", reset) else 0
    # Without a time to go by, a minute is short for the window of 15 and long for a server.
    return min(left if left > 0 else 60, LONGEST_WINDOW_SECONDS) + random.uniform(0, 5)


def _day_is_used_up(headers: Mapping[str, str]) -> bool:
    """Whether it is the limit of 24 hours that is reached, for which no task should wait."""
    return any(headers.get(f"x-{who}-limit-24hour-remaining") == "0" for who in ("app", "user"))
