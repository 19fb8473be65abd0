"""The pipeline against the stand-in: nothing missed, nothing doubled, nothing bought twice."""

import contextlib
from datetime import UTC, date, datetime, timedelta

import pytest

from etl import twitter_etl
from etl.x import days, errors
from lab.settings import USERNAMES
from lab.x_api.people import Person, posts
from tests.unit.conftest import NOW
from tests.unit.x_day import DAY, END, START, collect, pages, rows, snapshot


def test_every_post_of_the_day_is_there_once(x, client, storage):
    manifest = collect(client, storage)
    for person in x.people:
        expected = {post["id"]: post for post in posts(person, START)}
        found = rows(storage, person.id)
        assert {row["post_id"] for row in found} == set(expected) and len(found) == len(expected)
        for row in found:
            metrics = expected[row["post_id"]]["public_metrics"]
            assert (int(row["like_count"]), int(row["retweet_count"])) == (
                metrics["like_count"],
                metrics["retweet_count"],
            )
    assert manifest["rows"] == 21 and manifest["usd"] == x.usd == 0.135


def test_a_second_run_asks_nothing_and_gives_the_same_bytes(x, client, storage):
    collect(client, storage)
    before, asked = snapshot(storage), len(x.log)
    x.clock = lambda: NOW + timedelta(days=3)
    collect(client, storage)
    assert snapshot(storage) == before and len(x.log) == asked


@pytest.mark.parametrize("count", [0, 1, 5, 100, 101, 250])
def test_pages_of_every_size(x, client, storage, count):
    x.people = [Person("7", "busy", posts_per_day=count)]
    manifest = collect(client, storage, ["busy"])
    assert manifest["rows"] == count == len(rows(storage, "7"))
    assert len(pages(x)) == max(1, -(-count // 100))


def test_a_window_is_one_utc_day_that_is_over():
    assert twitter_etl.day_of(START, END) == DAY
    for start, end in [(START, START + timedelta(hours=1)), (START + timedelta(hours=1), END + timedelta(hours=1))]:
        with pytest.raises(errors.XError, match="not one UTC day"):
            twitter_etl.day_of(start, end)
    with pytest.raises(errors.XError, match="is not over"):
        twitter_etl.day_of(*twitter_etl.window(datetime.now(UTC).date()))


def test_the_day_clocks_change_has_24_hours_too():
    start, end = twitter_etl.window(date(2026, 10, 25))
    assert end - start == timedelta(days=1) and twitter_etl.day_of(start, end) == date(2026, 10, 25)


@pytest.mark.parametrize(("seconds", "over"), [(29.9, False), (30, True), (31, True), (-30, False)])
def test_a_day_is_over_half_a_minute_after_its_end(monkeypatch, seconds, over):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return END + timedelta(seconds=seconds)

    monkeypatch.setattr(days, "datetime", Clock)
    with contextlib.nullcontext() if over else pytest.raises(errors.XError, match="is not over"):
        assert days.day_of(START, END) == DAY


def test_an_old_day_beside_todays_is_a_day_of_its_own(x, client, storage):
    collect(client, storage)
    today = snapshot(storage)
    old = DAY - timedelta(days=20)
    users = twitter_etl.resolve_users(client, storage, USERNAMES, old)
    twitter_etl.publish(storage, [twitter_etl.extract(client, storage, user, old) for user in users], old)
    now = snapshot(storage)
    assert {key: now[key] for key in today} == today
    assert all(f"dt={old}" in key for key in set(now) - set(today))
