"""What a manifest says of a day and of its users, and what others are told of it."""

import hashlib
import json
from datetime import timedelta

import pytest

from etl import twitter_etl
from etl.storage import Storage
from etl.x import manifest as published
from etl.x import publish as publishing
from etl.x.extract import Extraction
from etl.x.rows import Batch, to_frame
from lab.settings import USERNAMES
from lab.x_api.people import Person
from tests.unit.conftest import NOW
from tests.unit.x_day import DAY, START, collect


def test_the_manifest_says_what_there_is(x, client, storage):
    manifest = collect(client, storage, formats=["csv", "parquet"], formula_guard=True)
    assert manifest == json.loads(storage.get(published.manifest_key(DAY))) == published.manifest_of(storage, DAY)
    assert manifest["formula_guard"] and manifest["columns"][0] == "username"
    for user in manifest["users"]:
        assert [entry["key"].rsplit(".")[-1] for entry in user["objects"]] == ["csv", "parquet"]
        assert all(storage.size(entry["key"]) == entry["bytes"] for entry in user["objects"])


def test_a_manifest_of_an_earlier_version_is_gone_on_with(x, client, storage):
    x.people[1].status = "suspended"
    manifest = collect(client, storage)
    manifest.pop("complete")
    for user in manifest["users"]:
        user.pop("problems")
    storage.put(published.manifest_key(DAY), json.dumps(manifest).encode())
    assert collect(client, storage)["rows"] == 14


def test_the_cap_of_the_timeline_is_a_warning(x, client, storage, caplog, monkeypatch):
    tireless = Person("7", "tireless", posts_per_day=3300)
    x.people = [tireless, Person("8", "earlier", posts_per_day=0), Person("9", "calm")]
    users = collect(client, storage, ["tireless", "earlier", "calm"])["users"]
    warnings = {user["username"]: user["warnings"] for user in users}
    assert f"tireless on {DAY}: X shows a user's newest 3200 posts" in caplog.text
    assert "older ones of this day" in warnings.pop("tireless")[0] and warnings == {"calm": [], "earlier": []}
    x.clock = lambda: NOW + timedelta(days=5)
    late = Storage(storage.address + "-late")
    (told,) = collect(client, late, ["tireless"])["users"]
    assert "newest 3200" in told["warnings"][0]
    # Who has no more than that is seen whole.
    monkeypatch.setattr("etl.x.publish.NEWEST_POSTS", told["posts_total"])
    assert collect(client, Storage(storage.address + "-whole"), ["tireless"])["users"][0]["warnings"] == []


def test_drift_is_told_from_the_median_of_the_week(storage):
    def manifest(day, count):
        storage.put(published.manifest_key(day), json.dumps({"rows": count}).encode())

    assert published.drift(storage, DAY) is None
    # Of three days of the week before at least; older ones do not count.
    for ago, count in [(8, 90), (9, 90), (1, 100), (7, 90)]:
        manifest(DAY - timedelta(days=ago), count)
    assert published.drift(storage, DAY) is None
    manifest(DAY - timedelta(days=6), 110)
    assert published.drift(storage, DAY) == f"0 rows on {DAY}, where the days before have 100"
    for count, said in [(50, False), (49, True), (200, False), (201, True), (100, False)]:
        manifest(DAY, count)
        assert bool(published.drift(storage, DAY)) is said


def test_the_event_tells_rows_cost_and_digest(x, client, storage, caplog):
    users = twitter_etl.resolve_users(client, storage, USERNAMES, DAY)
    extractions = [twitter_etl.extract(client, storage, user, DAY) for user in users]
    for ago in range(1, 4):
        storage.put(published.manifest_key(DAY - timedelta(days=ago)), b'{"rows": 1000}')
    event = twitter_etl.event(storage, twitter_etl.publish(storage, extractions, DAY))
    assert event["rows"] == 21 and event["users"] == 3 and event["usd"] == 0.135
    assert event["sha256"] == hashlib.sha256(storage.get(published.manifest_key(DAY))).hexdigest()
    assert event["drift"] in caplog.text


def test_each_incomplete_user_is_named_with_the_reasons():
    users = [
        {"username": "a", "status": "ok"},
        {"username": "b", "status": "not_found", "problems": ["first", "second"]},
        {"username": "c", "status": "suspended", "rejected": {"no text": 2, "no id": 1}},
        {"username": "d", "status": "ok", "problems": [], "rejected": {}},
    ]
    assert published.missing({"users": users}) == [
        "b: the user is not_found; first; second",
        "c: the user is suspended; 1 posts with no id; 2 posts with no text",
    ]


@pytest.mark.parametrize(
    ("entry", "user", "known"),
    [
        (("1", "ada"), ("1", "renamed"), True),
        (("1", "ada"), ("", "ada"), True),
        (("", "ada"), ("1", "ada"), True),
        (("", "ada"), ("", "ada"), True),
        # Somebody else took the name.
        (("1", "ada"), ("2", "ada"), False),
        (("1", "ada"), ("", "bob"), False),
    ],
)
def test_who_was_published_before_is_known_again(entry, user, known):
    one = {"id": entry[0], "username": entry[1]}
    found = publishing._known({publishing._key(one): one}, twitter_etl.User(*user))
    assert found == (one if known else {})


@pytest.mark.parametrize(
    ("received", "days", "total", "said"),
    [
        (1200, 2, 9999, "newest 3200 posts: older"),
        (1199, 2, 9999, ""),
        (0, 2, 9999, ""),
        (0, 2.1, 3201, "no posts, of an old day"),
        (0, 2.1, 3200, ""),
        (1, 2.1, 3201, ""),
    ],
)
def test_when_the_cap_of_the_timeline_may_have_hidden_posts(received, days, total, said):
    fetched = START + timedelta(days=days)
    batch = Batch(to_frame([]), received, received, fetched_at=fetched)
    user = twitter_etl.User("1", "ada", posts_total=total)
    warnings = publishing._account(batch, Extraction(user, 1, received), DAY)["warnings"]
    assert [said in warning for warning in warnings] == ([True] if said else [])


def test_only_the_very_bytes_fit_a_digest(storage):
    written = {"key": "a", "sha256": hashlib.sha256(b"0").hexdigest()}
    for content in map(str, range(20)):
        storage.put("a", content.encode())
        assert publishing._fits(storage, written) == (content == "0")
    assert not publishing._fits(storage, {**written, "key": "b"})
