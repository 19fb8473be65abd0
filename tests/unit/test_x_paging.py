"""However many posts and pages there are, whatever comes between, and whatever may be spent."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.storage import Storage
from etl.twitter_etl import Budget
from etl.x import errors
from lab.x_api.api import Fault, XApi
from lab.x_api.people import Person, posts
from tests.unit.conftest import KEYS, NOW
from tests.unit.x_day import START, collect, rows

FEW = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
COUNTS = st.integers(0, 420)
FAULTS = st.builds(
    Fault,
    st.sampled_from(["short_page", "same_token", "rate_limited", "cut_json", "reset", "server_error"]),
    st.lists(st.integers(2, 8), min_size=1, max_size=2),
    size=st.integers(0, 99),
)


@pytest.fixture
def account(x_server, tmp_path_factory, x):
    """A new account with one user of so many posts, and a folder of its own."""

    def open_one(count):
        x_server.api = XApi(KEYS, [Person("7", "busy", posts_per_day=count)], clock=lambda: NOW)
        return x_server.api, Storage(str(tmp_path_factory.mktemp("day")))

    return open_one


@FEW
@given(count=COUNTS, faults=st.lists(FAULTS, max_size=3))
def test_each_post_is_there_once_and_paid_for_once(client, account, count, faults):
    x, storage = account(count)
    x.faults = faults
    for _ in range(10):
        with contextlib.suppress(errors.RateLimited, errors.Transient):
            collect(client, storage, ["busy"])
            break
    expected = {post["id"] for post in posts(x.people[0], START)}
    found = [row["post_id"] for row in rows(storage, "7")]
    assert len(found) == len(set(found)) == count and set(found) == expected
    assert x.usd == pytest.approx(count * 0.005 + 0.01)


@FEW
@given(count=COUNTS, most=st.integers(15, 500))
def test_nothing_is_bought_beyond_the_budget_and_more_money_buys_the_rest(client, account, count, most):
    x, storage = account(count)
    with contextlib.suppress(errors.BudgetSpent):
        collect(client, storage, ["busy"], Budget(posts=most))
    bought = round((x.usd - 0.01) / 0.005)
    assert bought <= most and (bought == count or bought > most - 15)
    assert collect(client, storage, ["busy"])["rows"] == count
    assert x.usd == pytest.approx(count * 0.005 + 0.01)
