"""Usernames: each looked up once, and each with its status."""

import pytest

from etl import twitter_etl
from etl.x import budget as budgets
from etl.x import errors, users
from etl.x.users import User
from lab.settings import USERNAMES
from lab.x_api.people import Person
from tests.unit.x_day import DAY, collect, rows


def test_names_are_cleaned_and_each_user_is_read_once(x, client, storage):
    found = twitter_etl.resolve_users(client, storage, [" @Ada_Airfield", "ada_airfield", "", "ADA_AIRFIELD"], DAY)
    assert [(user.id, user.username) for user in found] == [("1000", "ada_airfield")]


def test_all_users_are_looked_up_with_one_request_for_a_hundred(x, client, storage):
    x.people = [Person(str(5000 + number), f"user_{number}", posts_per_day=0) for number in range(120)]
    found = twitter_etl.resolve_users(client, storage, [person.username for person in x.people], DAY)
    assert len(found) == 120 and len(x.log) == 2
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
    assert manifest["rows"] == 7 and twitter_etl.event(storage, manifest)["users"] == 1
    with pytest.raises(errors.XError, match=r"gone \(suspended\)"):
        twitter_etl.resolve_users(client, storage, names, DAY, strict=True)


def test_all_users_bad_is_an_error_that_is_not_remembered(x, client, storage):
    with pytest.raises(errors.XError, match=r"nobody \(not_found\).*x_usernames"):
        twitter_etl.resolve_users(client, storage, ["nobody"], DAY)
    x.people.append(Person("11", "nobody"))
    assert twitter_etl.resolve_users(client, storage, ["nobody"], DAY)[0].status == "ok"


@pytest.mark.parametrize("status", ["protected", "suspended"])
def test_a_user_gone_after_the_look_up_is_no_day_without_posts(x, client, storage, status):
    found = twitter_etl.resolve_users(client, storage, USERNAMES[:1], DAY)
    x.people[0].status = status
    assert twitter_etl.extract(client, storage, found[0], DAY).user.status in {"protected", "not_found"}
    assert storage.keys(f"raw/x/posts/dt={DAY}/") == []


def test_a_renamed_user_keeps_the_folder(x, client, storage):
    collect(client, storage, USERNAMES[:1])
    before = rows(storage, "1000")
    x.people[0].username = "ada_renamed"
    found = twitter_etl.resolve_users(client, storage, ["ada_renamed"], DAY)
    twitter_etl.publish(storage, [twitter_etl.extract(client, storage, found[0], DAY)], DAY)
    assert [row["post_id"] for row in rows(storage, "1000")] == [row["post_id"] for row in before]
    assert {row["username"] for row in rows(storage, "1000")} == {"ada_renamed"}


@pytest.mark.parametrize(("names", "words"), [(["", " "], "no usernames.*x_usernames"), (["a b"], "1 to 15 letters")])
def test_bad_names_stop_before_the_first_request(x, client, storage, names, words):
    with pytest.raises(errors.XError, match=words):
        twitter_etl.resolve_users(client, storage, names, DAY)
    assert x.log == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"detail": "User has been suspended: [gone]."}, "suspended"),
        ({"type": "https://api.x.com/2/problems/not-authorized-for-resource"}, "protected"),
        ({"type": "not-authorized-for-resource"}, "protected"),
        ({"type": "https://api.x.com/2/problems/resource-not-found"}, "not_found"),
        ({}, "not_found"),
    ],
)
def test_what_an_error_of_one_user_means(error, status):
    assert users.status_of(error) == status


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"id": "7", "public_metrics": {"tweet_count": 3}}, User("7", "ada", "ok", 3, "tweet")),
        ({"id": "7", "public_metrics": {"post_count": 4}}, User("7", "ada", "ok", 4, "post")),
        ({"id": "7", "public_metrics": {"post_count": 4, "tweet_count": 3}}, User("7", "ada", "ok", 3, "tweet")),
        ({"id": "7", "protected": True}, User("7", "ada", "protected", 0, "tweet")),
        ({"id": "seven"}, User("", "ada", "not_found")),
        ({}, User("", "ada", "not_found")),
    ],
)
def test_a_user_as_x_describes_one(data, found):
    assert users._user("ada", {"data": data}) == found


def test_a_name_has_15_letters_at_most():
    assert users.cleaned(["a" * 15, "@B_1 ", "b_1"]) == ["a" * 15, "b_1"]
    for name in ("a" * 16, "a-b", "@"):
        with pytest.raises(errors.XError):
            users.cleaned(["fine", name])
