"""What each answer of X means to the pipeline, and how long it waits."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from etl.x import client as x_client
from etl.x import errors, refusals
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
        ("unauthorized", errors.AuthError, r"401.*airflow_connections\.x_api\.password"),
        ("client_forbidden", errors.AuthError, r"403.*attach the app"),
        ("usage_capped", errors.UsageCapped, r"Monthly.*spend limit"),
        ("credits_depleted", errors.CreditsDepleted, r"402.*buy some"),
        ("rate_limited", errors.RateLimited, r"rate limit"),
        ("rate_limited_88", errors.RateLimited, r"rate limit"),
        ("rate_limited_day", errors.UsageCapped, r"24 hours"),
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


@pytest.mark.parametrize(("kind", "error"), [("server_error", errors.Transient), ("cut_json", errors.BadPayload)])
def test_patience_ends(x, client, kind, error):
    x.faults = [Fault(kind, list(range(1, 99)))]
    with pytest.raises(error):
        ask(client)
    assert len(x.log) == x_client.TRIES


@pytest.mark.parametrize(
    ("kind", "limit", "seconds"), [("stall", "READ_SECONDS", 0.3), ("drip", "ANSWER_SECONDS", 0.5)]
)
def test_an_endless_answer_is_given_up(x, client, monkeypatch, kind, limit, seconds):
    monkeypatch.setattr(x_client, limit, seconds)
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
    with pytest.raises(errors.RateLimited) as limited:
        ask(client)
    assert least <= limited.value.seconds <= most


def test_a_page_token_that_is_not_known_is_an_error_of_its_own(x, client):
    with pytest.raises(errors.TokenExpired):
        client.posts("1000", START, END, token="unknown")


def test_a_refused_parameter_is_named(x, client):
    with pytest.raises(errors.XError, match="max_results"):
        client.posts("1000", START, END, size=4)


def test_errors_of_any_shape_are_a_refusal(x, client, monkeypatch):
    monkeypatch.setitem(REFUSALS, "odd", lambda: Refused(400, {"errors": ["bad", {"parameters": None}]}))
    x.faults = [Fault("odd", [1])]
    with pytest.raises(errors.XError, match="400"):
        ask(client)


def test_a_signed_request_goes_where_it_was_signed_for():
    signing = x_client.Keys("", "a", "b", "c", "d")
    for keys, base_url, target in [
        (signing, x_client.BASE_URL, x_client.TWEEPY_HOST),
        (signing, f"{x_client.BASE_URL}/", x_client.TWEEPY_HOST),
        (signing, "https://elsewhere.example.com", "https://elsewhere.example.com"),
        (x_client.Keys("token"), x_client.BASE_URL, x_client.BASE_URL),
    ]:
        client = x_client.Client(keys, base_url)
        assert client._client.session.get_adapter(f"{x_client.TWEEPY_HOST}/2/users/by").base_url == target


def test_the_time_is_the_servers(x, client):
    assert ask(client).fetched_at == NOW
    assert refusals.server_time({}) <= datetime.now(UTC)


def test_an_empty_answer_is_refused(x, client):
    with pytest.raises(errors.BadPayload):
        x_client._once(lambda: client._client.get_users(usernames=["ada_airfield"]), {"else"})


@pytest.mark.parametrize(
    ("keys", "url", "words"),
    [
        (x_client.Keys(), "https://api.x.com", "no X bearer token"),
        (x_client.Keys("t"), "http://api.x.com", "use https"),
    ],
)
def test_bad_settings_stop_before_the_first_request(keys, url, words):
    with pytest.raises(errors.XError, match=words):
        x_client.Client(keys, url)


def test_both_dialects_and_both_kinds_of_keys(x, x_server):
    signing = x_client.Keys("", KEYS.consumer_key, KEYS.consumer_secret, KEYS.access_token, KEYS.access_token_secret)
    for dialect, keys, name in [("tweet", x_client.Keys(KEYS.bearer_token), "app"), ("post", signing, "user")]:
        x.dialect = dialect
        client = x_client.Client(keys, x_server.address)
        assert client.users(["ada_airfield"]).body["data"] and ask(client).body["data"]
        assert x.log[-1]["by"] == name
