"""Which error an answer of X is, and how long to wait, at the edges."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime

import pytest
import requests

from etl.x import errors, refusals

AT = "Sun, 01 Nov 2026 12:00:00 GMT"
NOON = int(datetime(2026, 11, 1, 12, tzinfo=UTC).timestamp())


def answer(status: int, body: object = None, **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response._content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    response.headers.update({"date": AT, **{name.replace("_", "-"): value for name, value in headers.items()}})
    return response


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (402, {"title": "none"}, errors.CreditsDepleted, "X said: none"),
        (400, {"type": "https://api.x.com/2/problems/credits"}, errors.CreditsDepleted, "no credits"),
        (403, {"title": "UsageCapExceeded"}, errors.UsageCapped, "unknown period"),
        (400, {"type": "x/usage-capped", "period": "Monthly"}, errors.UsageCapped, "Monthly"),
        (401, {}, errors.AuthError, "renew it"),
        (403, {"detail": "no project", "title": "not this"}, errors.AuthError, "X said: no project"),
        (403, b"<html>no</html>", errors.AuthError, "X said: <html>no</html>"),
        (403, b"x" * 300, errors.AuthError, f"X said: {'x' * 200}$"),
        (404, ["a list"], errors.XError, "404"),
        (408, {}, errors.Transient, "408"),
        (500, {}, errors.Transient, "500"),
        (599, {}, errors.Transient, "599"),
        (499, {"detail": "odd"}, errors.XError, "499.*odd"),
        (400, {"errors": [{"message": "first"}, {"message": "second"}]}, errors.XError, "first; second"),
        (400, {"errors": [{"parameters": {"pagination_token": ["a"]}}]}, errors.TokenExpired, "400"),
        (400, {"errors": [{"parameters": {"tweet.fields": ["a"]}}]}, errors.OtherNames, "names of fields"),
        (400, {"errors": [{"parameters": {"post.fields": ["a"]}}]}, errors.OtherNames, "names of fields"),
        (400, {"errors": [{"parameters": {"max_results": ["4"]}}]}, errors.XError, "max_results"),
    ],
)
def test_an_answer_is_one_error(status, body, error, words):
    with pytest.raises(error, match=words) as raised:
        refusals.check(answer(status, body))
    assert type(raised.value) is error


def test_a_good_answer_is_no_error():
    refusals.check(answer(200, b"not even JSON"))
    for status in (201, 302):
        with pytest.raises(errors.XError):
            refusals.check(answer(status))


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [(NOON + 1, 1), (NOON, 60), (NOON - 1, 60), (NOON + 960, 960), (NOON + 961, 960), ("", 60), (f"{NOON}.5", 60)],
)
def test_the_pause_is_what_is_left_of_the_window_and_up_to_five_seconds(monkeypatch, reset, seconds):
    spread = []
    monkeypatch.setattr(random, "uniform", lambda least, most: spread.append((least, most)) or 0)
    with pytest.raises(errors.RateLimited) as limited:
        refusals.check(answer(429, x_rate_limit_reset=str(reset)))
    assert limited.value.seconds == seconds and spread == [(0, 5)]


@pytest.mark.parametrize("who", ["app", "user"])
@pytest.mark.parametrize(("left", "error"), [("0", errors.UsageCapped), ("1", errors.RateLimited)])
def test_no_task_waits_for_the_limit_of_a_day(who, left, error):
    with pytest.raises(error):
        refusals.check(answer(429, **{f"x_{who}_limit_24hour_remaining": left}))
    # Other answers may say anything of that limit.
    refusals.check(answer(200, **{f"x_{who}_limit_24hour_remaining": left}))


def test_the_time_of_an_answer():
    noon = datetime(2026, 11, 1, 12, tzinfo=UTC)
    assert refusals.server_time({"date": AT}) == noon
    for headers in ({}, {"date": "yesterday"}):
        ours = refusals.server_time(headers)
        assert abs((datetime.now(UTC) - ours).total_seconds()) < 60 and not ours.microsecond
