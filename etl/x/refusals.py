"""What a refusal by X means: which error it is, and how long to wait."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from etl.x.errors import (
    AuthError,
    CreditsDepleted,
    OtherNames,
    RateLimited,
    TokenExpired,
    Transient,
    UsageCapped,
    XError,
)

LONGEST_WINDOW_SECONDS = 960


def server_time(headers: Mapping[str, str]) -> datetime:
    """The time by X's clock, for ours may be wrong."""
    try:
        return parsedate_to_datetime(headers["date"]).astimezone(UTC)
    except (KeyError, ValueError):
        return datetime.now(UTC).replace(microsecond=0)


def check(response: requests.Response, **_: Any) -> None:
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
    if {"tweet.fields", "post.fields"} & set(parameters):
        raise OtherNames(f"X does not know these names of fields: {said}")
    detail = "; ".join(str(error.get("message", error)) for error in errors)
    raise XError(f"X refused the request ({status}): {detail or said}")


def _pause(headers: Mapping[str, str]) -> float:
    """Seconds until the limit's window ends, and up to 5 more, because all tasks wait for the same moment."""
    reset = headers.get("x-rate-limit-reset", "")
    left = int(reset) - server_time(headers).timestamp() if re.fullmatch(r"\d+", reset) else 0
    # Without a reset time: a minute is short for a window of 15, and long for a server.
    return min(left if left > 0 else 60, LONGEST_WINDOW_SECONDS) + random.uniform(0, 5)


def _day_is_used_up(headers: Mapping[str, str]) -> bool:
    """Whether the 24-hour limit is reached, which no task should wait for."""
    return any(headers.get(f"x-{who}-limit-24hour-remaining") == "0" for who in ("app", "user"))
