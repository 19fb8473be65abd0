"""Usernames: each looked up once, and each with its status."""

import pytest

from etl import twitter_etl
from etl.x import budget as budgets
from etl.x import errors
from lab.settings import USERNAMES
from lab.x_api.people import Person
from tests.unit.x_day import DAY, collect, rows


def test_names_are_cleaned_and_each_user_is_read_once(x, client, storage):
    users = twitter_etl.resolve_users(client, storage, [" @Ada_Airfield", "ada_airfield", "", "ADA_AIRFIELD"], DAY)
    assert [(user.id, user.username) for user in users] == [("1000", "ada_airfield")]


def test_all_users_are_looked_up_with_one_request_for_a_hundred(x, client, storage):
    x.people = [Person(str(5000 + number), f"user_{number}", posts_per_day=0) for number in range(120)]
    users = twitter_etl.resolve_users(client, storage, [person.username for person in x.people], DAY)
    assert len(users) == 120 and len(x.log) == 2
    twitter_etl.resolve_users(client, storage, [person.username for person in x.people], DAY)
    assert len(x.log) == 2 and budgets.spent(storage, DAY) == (0, 1200)


def test_each_bad_user_has_a_status_and_stops_no_good_one(x, client, storage):
    x.people += [Person("8", "shy", status="protected"), Person("9", "gone", status="suspended")]
    names = [*USERNAMES[:1], "shy", "gone", "nobody"]
    manifest = collect(client, storage, names)
    assert {user["username"]: user["status"] for user in manifest["users"]} == {
        USERNAMES[0]: "ok",
        "shy": "protected",
        "gone": "suspended",
        "nobody": "not_found",
    }
    assert manifest["rows"] == 7
    with pytest.raises(errors.XError, match=r"gone \(suspended\)"):
        twitter_etl.resolve_users(client, storage, names, DAY, strict=True)


def test_all_users_bad_is_an_error_that_is_not_remembered(x, client, storage):
    with pytest.raises(errors.XError, match=r"nobody \(not_found\).*x_usernames"):
        twitter_etl.resolve_users(client, storage, ["nobody"], DAY)
    x.people.append(Person("11", "nobody"))
    assert twitter_etl.resolve_users(client, storage, ["nobody"], DAY)[0].status == "ok"


@pytest.mark.parametrize("status", ["protected", "suspended"])
def test_a_user_who_closes_between_look_up_and_reading_is_no_day_without_posts(x, client, storage, status):
    users = twitter_etl.resolve_users(client, storage, USERNAMES[:1], DAY)
    x.people[0].status = status
    assert twitter_etl.extract(client, storage, users[0], DAY).user.status in {"protected", "not_found"}
    assert storage.keys(f"raw/x/posts/dt={DAY}/") == []


def test_a_renamed_user_keeps_the_folder(x, client, storage):
    collect(client, storage, USERNAMES[:1])
    before = rows(storage, "1000")
    x.people[0].username = "ada_renamed"
    users = twitter_etl.resolve_users(client, storage, ["ada_renamed"], DAY)
    twitter_etl.publish(storage, [twitter_etl.extract(client, storage, users[0], DAY)], DAY)
    assert [row["post_id"] for row in rows(storage, "1000")] == [row["post_id"] for row in before]
    assert {row["username"] for row in rows(storage, "1000")} == {"ada_renamed"}


@pytest.mark.parametrize(("names", "words"), [(["", " "], "no usernames.*x_usernames"), (["a b"], "1 to 15 letters")])
def test_bad_names_stop_before_the_first_request(x, client, storage, names, words):
    with pytest.raises(errors.XError, match=words):
        twitter_etl.resolve_users(client, storage, names, DAY)
    assert x.log == []
