"""What each answer of X means to the pipeline, and how long it waits."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from etl import x_api
from lab.x_api.api import Fault
from lab.x_api.refusals import REFUSALS, Refused
from tests.unit.conftest import KEYS, NOW

START = datetime(2026, 11, 1, tzinfo=UTC)
END = START + timedelta(days=1)


def ask(client):
    return client.posts("1000", START, END)


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("unauthorized", x_api.AuthError, r"401.*airflow_connections\.x_api\.password"),
        ("client_forbidden", x_api.AuthError, r"403.*attach the app"),
        ("usage_capped", x_api.UsageCapped, r"Monthly.*spend limit"),
        ("credits_depleted", x_api.CreditsDepleted, r"402.*buy some"),
        ("rate_limited", x_api.RateLimited, r"rate limit"),
        ("rate_limited_88", x_api.RateLimited, r"rate limit"),
        ("rate_limited_day", x_api.UsageCapped, r"24 hours"),
    ],
)
def test_a_refusal_is_raised_at_once_and_says_what_to_do(x, client, kind, error, words):
    x.faults = [Fault(kind, [1])]
    with pytest.raises(error, match=words):
        ask(client)
    assert len(x.log) == 1


@pytest.mark.parametrize(
    "kind", ["over_capacity", "unavailable", "server_error", "html", "list", "cut_json", "short_body", "reset"]
)
def test_a_busy_server_is_asked_again(x, client, kind):
    x.faults = [Fault(kind, [1, 2, 3])]
    assert ask(client).body["meta"]["result_count"] == 7
    assert len(x.log) == 4


@pytest.mark.parametrize(("kind", "error"), [("server_error", x_api.Transient), ("cut_json", x_api.BadPayload)])
def test_patience_ends(x, client, kind, error):
    x.faults = [Fault(kind, list(range(1, 99)))]
    with pytest.raises(error):
        ask(client)
    assert len(x.log) == x_api.TRIES


@pytest.mark.parametrize(
    ("kind", "limit", "seconds"), [("stall", "READ_SECONDS", 0.3), ("drip", "ANSWER_SECONDS", 0.5)]
)
def test_a_server_that_does_not_come_to_its_end_is_given_up(x, client, monkeypatch, kind, limit, seconds):
    monkeypatch.setattr(x_api, limit, seconds)
    x.faults = [Fault(kind, [1])]
    began = time.monotonic()
    assert ask(client).body["data"]
    assert time.monotonic() - began < 10 and len(x.log) == 2


@pytest.mark.parametrize(
    ("reset", "least", "most"),
    [("2", 2, 7), ("-600", 60, 65), ("missing", 60, 65), (str(26 * 3600), 960, 965), ("true", 900, 905)],
)
def test_the_wait_is_reckoned_by_the_servers_clock(x, client, reset, least, most):
    """The account's clock is months away from ours."""
    assert abs(NOW.timestamp() - time.time()) > 3600
    x.faults = [Fault("rate_limited", [1], reset=reset)]
    with pytest.raises(x_api.RateLimited) as limited:
        ask(client)
    assert least <= limited.value.seconds <= most


def test_a_page_token_that_is_not_known_is_an_error_of_its_own(x, client):
    with pytest.raises(x_api.TokenExpired):
        client.posts("1000", START, END, token="unknown")


def test_a_refused_parameter_is_named(x, client):
    with pytest.raises(x_api.XApiError, match="max_results"):
        client.posts("1000", START, END, size=4)


def test_errors_of_any_shape_are_a_refusal(x, client, monkeypatch):
    monkeypatch.setitem(REFUSALS, "odd", lambda: Refused(400, {"errors": ["bad", {"parameters": None}]}))
    x.faults = [Fault("odd", [1])]
    with pytest.raises(x_api.XApiError, match="400"):
        ask(client)


def test_a_signed_request_goes_where_it_was_signed_for():
    signing = x_api.Keys("", "a", "b", "c", "d")
    for keys, base_url, target in [
        (signing, x_api.BASE_URL, x_api.TWEEPY_HOST),
        (signing, "https://elsewhere.example.com", "https://elsewhere.example.com"),
        (x_api.Keys("token"), x_api.BASE_URL, x_api.BASE_URL),
    ]:
        client = x_api.Client(keys, base_url)
        assert client._client.session.get_adapter(f"{x_api.TWEEPY_HOST}/2/users/by").base_url == target


def test_the_time_is_the_servers(x, client):
    assert ask(client).fetched_at == NOW
    assert x_api._server_time({}) <= datetime.now(UTC)


def test_an_answer_without_anything_is_no_answer(x, client):
    with pytest.raises(x_api.BadPayload):
        x_api._once(lambda: client._client.get_users(usernames=["ada_airfield"]), {"else"})


@pytest.mark.parametrize(
    ("keys", "url", "dialect", "words"),
    [
        (x_api.Keys(), "https://api.x.com", "tweet", "no X bearer token"),
        (x_api.Keys("t"), "http://api.x.com", "tweet", "use https"),
        (x_api.Keys("t"), "https://api.x.com", "toot", "dialect"),
    ],
)
def test_bad_settings_stop_before_the_first_request(keys, url, dialect, words):
    with pytest.raises(x_api.XApiError, match=words):
        x_api.Client(keys, url, dialect)


def test_both_dialects_and_both_kinds_of_keys(x, x_server):
    signing = x_api.Keys("", KEYS.consumer_key, KEYS.consumer_secret, KEYS.access_token, KEYS.access_token_secret)
    for dialect, keys, name in [("tweet", x_api.Keys(KEYS.bearer_token), "app"), ("post", signing, "user")]:
        x.dialect = dialect
        client = x_api.Client(keys, x_server.address, dialect)
        assert client.users(["ada_airfield"]).body["data"] and ask(client).body["data"]
        assert x.log[-1]["by"] == name
