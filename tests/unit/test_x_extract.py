"""One user's day: cut off, limited, led in circles, and gone on."""

import contextlib
import gzip
import json
import os
import random
from datetime import timedelta

import pytest

from etl import twitter_etl
from etl.storage import Storage
from etl.twitter_etl import User
from etl.x import budget as budgets
from etl.x import client as x_client
from etl.x import errors
from etl.x import manifest as published
from lab.settings import USERNAMES
from lab.x_api.api import Fault
from lab.x_api.people import Person, written
from tests.unit.conftest import NOW
from tests.unit.x_day import DAY, END, START, Cut, Killed, collect, looked_up, pages, rows, rows_of, snapshot


@pytest.mark.parametrize("written_first", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("after", range(1, 19))
def test_killed_anywhere_and_run_again_gives_the_same_bytes(x, client, storage, tmp_path, busy, after, written_first):
    whole = Storage(str(tmp_path / "whole"))
    collect(client, whole, ["busy", "tower_tom"])
    x.log.clear()
    with pytest.raises(Killed):
        collect(client, Cut(storage, after, written_first), ["busy", "tower_tom"])
    collect(client, storage, ["busy", "tower_tom"])
    assert snapshot(storage) == snapshot(whole)
    asked = pages(x)
    # Only what came and was not yet written must be requested again; X charges it once a day.
    lost = 0 if written_first or after not in {*range(4, 12), 14} else 1
    assert len(asked) - len(set(asked)) == lost and len(set(asked)) == 9
    assert x.usd == round(737 * 0.005 + 2 * 0.01, 3)


@pytest.mark.parametrize("seed", range(int(os.environ.get("AIRSTRIP_ORDERS", "15"))))
def test_any_order_of_cut_offs_reruns_and_user_lists_ends_in_one_clean_run(x, client, storage, tmp_path, seed):
    """The same bytes are published, and X charges the same."""
    chance = random.Random(seed)
    x.people = [
        Person(str(100 + number), f"user_{number}", posts_per_day=size) for number, size in enumerate((0, 7, 230))
    ]
    names, whole = [person.username for person in x.people], Storage(str(tmp_path / "whole"))
    collect(client, whole, names)
    for _ in range(chance.randint(2, 5)):
        some = chance.sample(names, chance.randint(1, 3))
        kind = chance.choice(["rate_limited", "short_body", "unavailable", "server_error"])
        x.faults = [Fault(kind, chance.sample(range(1, 9), 2))]
        cut = Cut(storage, chance.randint(1, 16), chance.random() < 0.5)
        with contextlib.suppress(Killed, errors.RateLimited, errors.Transient):
            collect(client, cut, some)
    x.faults = []
    seen = {key: len(gzip.decompress(content)) for key, content in snapshot(storage, "raw/x/posts/").items()}
    for some in ([name] for name in chance.sample(names, 3)):
        collect(client, storage, some)
    assert snapshot(storage, "curated/") == snapshot(whole, "curated/")
    assert {
        key: len(gzip.decompress(content)) for key, content in snapshot(storage, "raw/x/posts/").items()
    }.items() >= seen.items()
    assert x.usd == 237 * 0.005 + 3 * 0.01 and budgets.spent(storage, DAY) == budgets.spent(whole, DAY)


def test_a_rate_limit_in_the_middle_goes_on_behind_the_last_page(x, client, storage, busy):
    x.faults = [Fault("rate_limited", [3], reset="2")]
    with pytest.raises(errors.RateLimited):
        collect(client, storage, ["busy"])
    assert len(storage.keys(f"raw/x/posts/dt={DAY}/")) == 2
    assert collect(client, storage, ["busy"])["rows"] == 730
    assert len(pages(x)) == len(set(pages(x))) == 8


@pytest.mark.parametrize(
    ("kind", "error"), [("credits_depleted", errors.CreditsDepleted), ("usage_capped", errors.UsageCapped)]
)
def test_what_was_paid_for_is_kept_when_the_money_ends(x, client, storage, busy, kind, error):
    x.faults = [Fault(kind, [7])]
    with pytest.raises(error):
        collect(client, storage, ["busy"])
    assert budgets.spent(storage, DAY)[0] == 600
    assert collect(client, storage, ["busy"])["rows"] == 730
    assert len(pages(x)) == 8


def test_an_expired_page_token_is_replaced_by_the_time(x, client, storage, busy):
    x.faults = [Fault("rate_limited", [4])]
    with pytest.raises(errors.RateLimited):
        collect(client, storage, ["busy"])
    x.clock = lambda: NOW + timedelta(hours=5)
    manifest = collect(client, storage, ["busy"])
    assert manifest["rows"] == 730 and manifest["users"][0]["duplicates"] == 1
    assert x.usd == round(730 * 0.005 + 0.01, 3)


@pytest.mark.parametrize(
    "fault", [Fault("short_page", [2], size=3), Fault("short_page", [2], size=0)], ids=["short", "empty"]
)
def test_a_short_page_is_not_the_last(x, client, storage, busy, fault):
    x.faults = [fault]
    assert collect(client, storage, ["busy"])["rows"] == 730


def test_an_empty_first_page_is_not_the_last(x, client, storage, busy):
    x.faults = [Fault("short_page", [1], size=0)]
    assert collect(client, storage, ["busy"])["rows"] == 730


def test_a_repeated_token_is_dropped(x, client, storage, busy):
    x.faults = [Fault("same_token", [3])]
    assert collect(client, storage, ["busy"])["rows"] == 730


def test_an_endless_loop_of_pages_ends(x, client, storage, monkeypatch):
    body = json.loads(json.dumps(client.posts("1000", START, END).body))
    body["meta"]["next_token"] = "always"
    asked = []
    answer = x_client.Answer(json.dumps(body).encode(), body, NOW)
    monkeypatch.setattr(client, "posts", lambda *words: asked.append(words) or answer)
    with pytest.raises(errors.XError, match="again and again"):
        twitter_etl.extract(client, storage, User("1000", "ada_airfield"), DAY)
    assert len(asked) == 6


def test_empty_pages_that_lead_in_a_circle_end(x, client, storage, monkeypatch):
    body = {"meta": {"result_count": 0, "next_token": "always"}}
    answer = x_client.Answer(json.dumps(body).encode(), body, NOW)
    monkeypatch.setattr(client, "posts", lambda *words: answer)
    with pytest.raises(errors.XError, match="again and again"):
        twitter_etl.extract(client, storage, User("1000", "ada_airfield"), DAY)
    assert len(storage.keys("raw/x/posts/")) == 4


def test_a_token_that_expires_while_all_posts_are_of_the_last_second(x, client, storage, busy):
    busy.posts_per_day = 0
    busy.written = [written(busy, END - timedelta(milliseconds=900 - number), str(number)) for number in range(150)]
    x.faults = [Fault("rate_limited", [2])]
    with pytest.raises(errors.RateLimited):
        collect(client, storage, ["busy"])
    x.clock = lambda: NOW + timedelta(hours=5)
    assert collect(client, storage, ["busy"])["rows"] == 150


def test_an_invalid_time_rejects_the_post_and_not_the_day(x, client, storage, busy):
    busy.posts_per_day = 3
    spoilt = busy.posts(START, NOW, 9)[0]
    x.faults = [Fault("call", [1], action=lambda: spoilt.update(created_at="2026-11-01T25:00"))]
    manifest = collect(client, storage, ["busy"])
    assert manifest["rows"] == 2 and manifest["users"][0]["rejected"] == {"no created_at": 1}


def test_a_user_who_closes_in_the_middle_keeps_what_was_read(x, client, storage, busy):
    x.faults = [Fault("call", [3], action=lambda: setattr(busy, "status", "protected"))]
    manifest = collect(client, storage, ["busy", "tower_tom"])
    assert manifest["users"][0]["status"] == "protected" and manifest["users"][0]["rows"] == 200 == len(
        rows(storage, "7")
    )
    assert "only the pages that were read before" in manifest["users"][0]["warnings"][0]
    assert manifest["posts_bought"] == sum(user["posts"] for user in manifest["users"]) == 207


def test_users_that_were_looked_up_before_a_rate_limit_are_kept(x, client, storage):
    x.people = [Person(str(5000 + number), f"user_{number}", posts_per_day=0) for number in range(120)]
    x.faults = [Fault("rate_limited", [2], route="users")]
    names = [person.username for person in x.people]
    with pytest.raises(errors.RateLimited):
        twitter_etl.resolve_users(client, storage, names, DAY)
    assert len(twitter_etl.resolve_users(client, storage, names, DAY)) == 120
    assert [entry["status"] for entry in x.log] == [200, 429, 200]


def test_posts_that_come_between_two_pages_double_nothing(x, client, storage, busy):
    late = written(busy, END - timedelta(seconds=1), "late")

    def insert():
        if late not in busy.written:
            busy.written.append(late)

    x.faults = [Fault("call", [3], action=insert)]
    manifest = collect(client, storage, ["busy"])
    assert manifest["rows"] == 730 and manifest["users"][0]["duplicates"] == 1


def test_a_post_that_is_edited_between_two_pages_is_there_once(x, client, storage, busy):
    original = written(busy, END - timedelta(minutes=5), "first")
    edited = written(busy, END - timedelta(minutes=1), "second")
    edited["edit_history_tweet_ids"] = [original["id"], edited["id"]]
    busy.written.append(original)
    x.faults = [Fault("call", [2], action=lambda: busy.written.append(edited))]
    again = Storage(storage.address + "-again")
    for target, seen, unseen in [(storage, "first", "second"), (again, "second", "first")]:
        assert collect(client, target, ["busy"])["rows"] == 731
        texts = [row["text"] for row in rows(target, "7")]
        assert texts.count(seen) == 1 and unseen not in texts


def test_a_post_that_is_deleted_and_counts_that_fall_change_no_stored_day(x, client, storage, tmp_path):
    collect(client, storage, USERNAMES[:1])
    before = snapshot(storage)
    x.people[0].posts_per_day = 1
    collect(client, storage, USERNAMES[:1])
    assert snapshot(storage) == before
    # X itself shows one post now: who has nothing stored gets that.
    other = Storage(str(tmp_path / "other"))
    collect(client, other, USERNAMES[:1])
    number = x.people[0].id
    assert (len(rows(storage, number)), len(rows(other, number))) == (7, 1)


def test_a_page_without_meta_is_not_the_end(x, client, storage, monkeypatch):
    user = User("1000", "ada_airfield")
    answer = x_client.Answer(b"{}", {"data": []}, NOW)
    monkeypatch.setattr(client, "posts", lambda *_: answer)
    with pytest.raises(errors.BadPayload, match="no meta"):
        twitter_etl.extract(client, storage, user, DAY)


def test_retweets_are_whole_and_what_that_costs_is_counted(x, client, storage):
    person = Person("7", "echo", posts_per_day=0)
    said = written(Person("9", "eve"), START, "w" * 200)
    text = f"RT @eve: {'w' * 131}…"
    reference = [{"type": "retweeted", "id": said["id"]}]
    person.written = [written(person, START + timedelta(hours=1), text, referenced_tweets=reference, referenced=said)]
    x.people = [person]
    manifest = collect(client, storage, ["echo"])
    assert rows(storage, "7")[0]["text"] == "RT @eve: " + "w" * 200
    assert manifest["posts_bought"] == 2 and manifest["usd"] == x.usd


def test_a_retweet_whose_original_is_gone_stays_as_it_is(x, client, storage):
    person = Person("7", "echo", posts_per_day=0)
    said = written(person, START + timedelta(hours=3), "RT @eve: cut off…")
    person.written.append({**said, "referenced_tweets": [{"type": "retweeted", "id": "123"}], "gone": ["123"]})
    x.people = [person]
    manifest = collect(client, storage, ["echo"])
    assert rows(storage, "7")[0]["text"] == "RT @eve: cut off…" and published.missing(manifest) == []


@pytest.mark.parametrize("end_is_in", [False, True])
def test_a_post_of_midnight_is_of_the_day_that_begins(x, client, storage, end_is_in):
    """X's words differ on whether a window's end is in it."""
    x.end_is_in = end_is_in
    person = Person("7", "owl", posts_per_day=0)
    person.written = [written(person, when, str(when)) for when in (START, END - timedelta(milliseconds=1), END)]
    x.people = [person]
    assert len(rows_of(collect(client, storage, ["owl"]), storage)) == 2
    assert [row["created_at"] for row in rows(storage, "7")] == [f"{DAY}T00:00:00Z", f"{DAY}T23:59:59Z"]


def test_a_small_quota_is_waited_for_window_after_window(x, client, storage):
    """Ten requests a window for forty users, each of whom comes back when X says and goes on behind its last page."""
    x.people = [Person(str(5000 + number), f"user_{number}", posts_per_day=101) for number in range(40)]
    x.limits[("app", "tweets")] = 10
    now, windows = [NOW], 0
    x.clock = lambda: now[0]
    waiting = looked_up(client, storage, [person.username for person in x.people])
    while waiting:
        left = []
        for user in waiting:
            try:
                twitter_etl.extract(client, storage, user, DAY)
            except errors.RateLimited as limited:
                left.append((user, limited.seconds))
        waiting = [user for user, _ in left]
        now[0] += timedelta(seconds=max((seconds for _, seconds in left), default=0))
        windows += 1
    assert windows == 8 and len(set(pages(x))) == len(pages(x)) == 80
