"""The pipeline against the stand-in: nothing missed, nothing doubled, nothing bought twice."""

import csv
import io
import json
from datetime import UTC, date, datetime, timedelta

import duckdb
import pytest

from etl import twitter_etl, x_api
from etl.storage import Storage
from etl.twitter_etl import Budget, BudgetSpent, QualityError, User
from lab.settings import USERNAMES
from lab.x_api.api import Fault
from lab.x_api.people import Person, posts, written
from tests.unit.conftest import NOW

DAY = date(2026, 11, 1)
START, END = twitter_etl.window(DAY)


def collect(client, storage, usernames=USERNAMES, budget=None, **options):
    users = twitter_etl.resolve_users(client, storage, list(usernames), DAY)
    extractions = [twitter_etl.extract(client, storage, user, DAY, budget) for user in users]
    return twitter_etl.load(storage, extractions, DAY, **options)


def rows(storage, number):
    content = storage.get(f"curated/x/posts/dt={DAY}/user_id={number}/posts.csv")
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def snapshot(storage, prefix=""):
    return {key: storage.get(key) for key in storage.keys(prefix)}


def pages(x):
    """The timeline requests that were answered with posts or the end of them."""
    return [
        (entry["path"], entry["query"].get("pagination_token"))
        for entry in x.log
        if "/tweets" in entry["path"] and entry["status"] == 200
    ]


@pytest.fixture
def busy(x):
    """A user of 730 posts a day: eight pages."""
    person = Person("7", "busy", posts_per_day=730)
    x.people.append(person)
    return person


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


# Users.


def test_names_are_cleaned_and_each_user_is_read_once(x, client, storage):
    users = twitter_etl.resolve_users(client, storage, [" @Ada_Airfield", "ada_airfield", "", "ADA_AIRFIELD"], DAY)
    assert [(user.id, user.username) for user in users] == [("1000", "ada_airfield")]


def test_all_users_are_looked_up_with_one_request_for_a_hundred(x, client, storage):
    x.people = [Person(str(5000 + number), f"user_{number}", posts_per_day=0) for number in range(120)]
    users = twitter_etl.resolve_users(client, storage, [person.username for person in x.people], DAY)
    assert len(users) == 120 and len(x.log) == 2
    twitter_etl.resolve_users(client, storage, [person.username for person in x.people], DAY)
    assert len(x.log) == 2 and twitter_etl.spent(storage, DAY) == (0, 1.2)


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
    with pytest.raises(x_api.XApiError, match=r"gone \(suspended\)"):
        twitter_etl.resolve_users(client, storage, names, DAY, strict=True)


def test_all_users_bad_is_an_error_that_is_not_remembered(x, client, storage):
    with pytest.raises(x_api.XApiError, match=r"nobody \(not_found\).*x_usernames"):
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
    twitter_etl.load(storage, [twitter_etl.extract(client, storage, users[0], DAY)], DAY)
    assert [row["post_id"] for row in rows(storage, "1000")] == [row["post_id"] for row in before]
    assert {row["username"] for row in rows(storage, "1000")} == {"ada_renamed"}


@pytest.mark.parametrize(("names", "words"), [(["", " "], "no usernames.*x_usernames"), (["a b"], "1 to 15 letters")])
def test_bad_names_stop_before_the_first_request(x, client, storage, names, words):
    with pytest.raises(x_api.XApiError, match=words):
        twitter_etl.resolve_users(client, storage, names, DAY)
    assert x.log == []


# Cut off, limited, and gone on.


class Killed(BaseException):
    """The worker is gone."""


class Cut:
    """Storage whose worker is killed at the n-th object, before or after it is written."""

    def __init__(self, storage, after, written_first):
        self.storage, self.left, self.written_first = storage, after, written_first
        self.address = storage.address

    def __getattr__(self, name):
        return getattr(self.storage, name)

    def put(self, key, content):
        self.left -= 1
        if self.left == 0 and not self.written_first:
            raise Killed
        self.storage.put(key, content)
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("written_first", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("after", range(1, 14))
def test_killed_anywhere_and_run_again_gives_the_same_bytes(x, client, storage, tmp_path, busy, after, written_first):
    whole = Storage(str(tmp_path / "whole"))
    collect(client, whole, ["busy", "tower_tom"])
    x.log.clear()
    with pytest.raises(Killed):
        collect(client, Cut(storage, after, written_first), ["busy", "tower_tom"])
    collect(client, storage, ["busy", "tower_tom"])
    assert snapshot(storage) == snapshot(whole)
    asked = pages(x)
    # What came and was not yet written is the one thing that must be asked for again; X charges it once a day.
    lost = 0 if written_first or not 2 <= after <= 10 else 1
    assert len(asked) - len(set(asked)) == lost and len(set(asked)) == 9
    assert x.usd == round(737 * 0.005 + 2 * 0.01, 3)


def test_a_rate_limit_in_the_middle_goes_on_behind_the_last_page(x, client, storage, busy):
    x.faults = [Fault("rate_limited", [3], reset="2")]
    with pytest.raises(x_api.RateLimited):
        collect(client, storage, ["busy"])
    assert len(storage.keys(f"raw/x/posts/dt={DAY}/")) == 2
    assert collect(client, storage, ["busy"])["rows"] == 730
    assert len(pages(x)) == len(set(pages(x))) == 8


@pytest.mark.parametrize(
    ("kind", "error"), [("credits_depleted", x_api.CreditsDepleted), ("usage_capped", x_api.UsageCapped)]
)
def test_what_was_paid_for_is_kept_when_the_money_ends(x, client, storage, busy, kind, error):
    x.faults = [Fault(kind, [7])]
    with pytest.raises(error):
        collect(client, storage, ["busy"])
    assert twitter_etl.spent(storage, DAY)[0] == 600
    assert collect(client, storage, ["busy"])["rows"] == 730
    assert len(pages(x)) == 8


def test_an_expired_page_token_is_replaced_by_the_time(x, client, storage, busy):
    x.faults = [Fault("rate_limited", [4])]
    with pytest.raises(x_api.RateLimited):
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


def test_a_token_that_leads_back_is_left(x, client, storage, busy):
    x.faults = [Fault("same_token", [3])]
    assert collect(client, storage, ["busy"])["rows"] == 730


def test_a_circle_that_cannot_be_left_ends(x, client, storage, monkeypatch):
    body = json.loads(json.dumps(client.posts("1000", START, END).body))
    body["meta"]["next_token"] = "always"
    asked = []
    answer = x_api.Answer(json.dumps(body).encode(), body, NOW)
    monkeypatch.setattr(client, "posts", lambda *words: asked.append(words) or answer)
    with pytest.raises(x_api.XApiError, match="again and again"):
        twitter_etl.extract(client, storage, User("1000", "ada_airfield"), DAY)
    assert len(asked) == 6


def test_empty_pages_that_lead_in_a_circle_end(x, client, storage, monkeypatch):
    body = {"meta": {"result_count": 0, "next_token": "always"}}
    answer = x_api.Answer(json.dumps(body).encode(), body, NOW)
    monkeypatch.setattr(client, "posts", lambda *words: answer)
    with pytest.raises(x_api.XApiError, match="again and again"):
        twitter_etl.extract(client, storage, User("1000", "ada_airfield"), DAY)
    assert len(storage.keys("raw/")) == 4


def test_a_token_that_expires_while_all_posts_are_of_the_last_second(x, client, storage, busy):
    busy.posts_per_day = 0
    busy.written = [written(busy, END - timedelta(milliseconds=900 - number), str(number)) for number in range(150)]
    x.faults = [Fault("rate_limited", [2])]
    with pytest.raises(x_api.RateLimited):
        collect(client, storage, ["busy"])
    x.clock = lambda: NOW + timedelta(hours=5)
    assert collect(client, storage, ["busy"])["rows"] == 150


def test_a_time_that_is_none_rejects_the_post_and_not_the_day(x, client, storage, busy):
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
    with pytest.raises(x_api.RateLimited):
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
    answer = x_api.Answer(b"{}", {"data": []}, NOW)
    monkeypatch.setattr(client, "posts", lambda *_: answer)
    with pytest.raises(x_api.BadPayload, match="no meta"):
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


# Budget.


def test_the_budget_of_posts_ends_the_run_and_what_was_bought_is_kept(x, client, storage, busy):
    with pytest.raises(BudgetSpent, match=r"250 posts .*x_max_posts"):
        collect(client, storage, ["busy"], Budget(max_posts=250))
    assert twitter_etl.spent(storage, DAY)[0] == 250
    assert collect(client, storage, ["busy"], Budget(max_posts=1000))["rows"] == 730
    assert x.usd == round(730 * 0.005 + 0.01, 3)


def test_who_triggers_a_run_may_lower_its_budget_and_not_raise_it():
    usual = Budget(max_posts=100, max_usd=5.0)
    assert usual.lowered(None, None) == usual
    assert usual.lowered(50, 0.5) == Budget(50, 0.5)
    with pytest.raises(x_api.XApiError, match=r"max_posts is 101, above the 100 .*airflow_variables.x_max_posts"):
        usual.lowered(101, None)
    with pytest.raises(x_api.XApiError, match=r"max_usd is 5.01, above the 5.0 .*airflow_variables.x_max_usd"):
        usual.lowered(None, 5.01)


def test_the_budget_of_money_holds_for_all_users_together(x, client, storage, busy):
    x.people.append(Person("8", "busier", posts_per_day=900))
    with pytest.raises(BudgetSpent, match="x_max_usd"):
        collect(client, storage, ["busy", "busier"], Budget(max_usd=5.0))
    assert 4.9 < x.usd <= 5.0


def test_tasks_that_read_at_once_keep_the_budget_together(x, client, storage):
    """Eight tasks buy page by page in turn, each knowing of the others by what is stored."""
    x.people = [Person(str(100 + number), f"user_{number}", posts_per_day=3000) for number in range(8)]
    budget = Budget(max_posts=10_000)
    purses = [twitter_etl._Purse(storage, DAY, budget) for _ in x.people]
    bought, spenders = 0, set(range(8))
    while spenders:
        for number in sorted(spenders):
            try:
                size = purses[number].page()
            except BudgetSpent:
                spenders.discard(number)
                continue
            bought += size
            storage.put(f"raw/x/posts/dt={DAY}/user_id={number}/page-{bought:06}-posts-{size:03}.jsonl.gz", b"")
            purses[number].take(size)
    assert 10_000 <= bought <= 10_000 + 8 * 100


# Publishing.


def test_the_manifest_is_written_last(x, client, storage):
    order = []

    class Recording(Cut):
        def put(self, key, content):
            order.append(key)
            self.storage.put(key, content)

    collect(client, Recording(storage, 0, False))
    assert order[-1] == f"curated/x/posts/dt={DAY}/_manifest.json"
    assert all(
        key.startswith("raw/") for key in order[: order.index(next(k for k in order if k.startswith("curated/")))]
    )


def test_the_manifest_says_what_there_is(x, client, storage):
    manifest = collect(client, storage, formats=["csv", "parquet"], formula_guard=True)
    assert manifest == json.loads(storage.get(twitter_etl.manifest_key(DAY))) == twitter_etl.manifest_of(storage, DAY)
    assert manifest["formula_guard"] and manifest["columns"][0] == "username"
    for user in manifest["users"]:
        assert [entry["key"].rsplit(".")[-1] for entry in user["objects"]] == ["csv", "parquet"]
        assert all(storage.size(entry["key"]) == entry["bytes"] for entry in user["objects"])


def test_the_keys_are_partitions_to_duckdb(x, client, storage):
    collect(client, storage, formats=["csv", "parquet"])
    folder = f"{storage.address}/curated/x"
    for source in (
        f"read_csv('{folder}/posts/*/*/posts.csv'",
        f"read_parquet('{folder}/posts_parquet/*/*/posts.parquet'",
    ):
        columns = "dt::VARCHAR, user_id, username, count(*)"
        query = f"SELECT {columns} FROM {source}, hive_partitioning = true) GROUP BY ALL ORDER BY 2"
        found = duckdb.sql(query).fetchall()
        assert found == [(str(DAY), int(person.id), person.username, 7) for person in x.people]


def test_what_fails_a_check_goes_to_quarantine_and_nothing_is_published(x, client, storage):
    users = twitter_etl.resolve_users(client, storage, USERNAMES, DAY)
    extractions = [twitter_etl.extract(client, storage, user, DAY) for user in users]
    key = storage.keys(f"raw/x/posts/dt={DAY}/user_id=1001/")[0]
    head, body = twitter_etl._unpack(storage.get(key))
    body["meta"]["result_count"] = 8
    storage.put(key, twitter_etl._pack(head, json.dumps(body).encode()))
    with pytest.raises(QualityError, match=r"runway_rita: X announced 8 posts and sent 7.*delete raw/x/posts"):
        twitter_etl.load(storage, extractions, DAY)
    assert storage.keys("curated/") == []
    quarantined = storage.keys("quarantine/")
    assert [key.rsplit("/", 1)[1] for key in quarantined] == ["posts.csv", "problems.json"]


def test_an_object_of_another_size_is_no_success(x, client, storage, monkeypatch):
    monkeypatch.setattr(Storage, "size", lambda self, key: 0)
    with pytest.raises(OSError, match="another size"):
        collect(client, storage)
    assert twitter_etl.manifest_of(storage, DAY) is None


def test_an_unknown_format_is_named(x, client, storage):
    with pytest.raises(x_api.XApiError, match=r"avro: use csv or parquet"):
        collect(client, storage, formats=["avro"])


def test_the_cap_of_the_timeline_is_a_warning(x, client, storage):
    tireless = Person("7", "tireless", posts_per_day=3300)
    x.people = [tireless, Person("8", "earlier", posts_per_day=0), Person("9", "calm")]
    warnings = [user["warnings"] for user in collect(client, storage, ["tireless", "earlier", "calm"])["users"]]
    assert "older ones of this day" in warnings[0][0] and warnings[1:] == [[], []]
    x.clock = lambda: NOW + timedelta(days=5)
    late = Storage(storage.address + "-late")
    assert "newest 3200" in collect(client, late, ["tireless"])["users"][0]["warnings"][0]


def test_drift_is_told_from_the_median_of_the_week(storage):
    def manifest(day, count):
        storage.put(twitter_etl.manifest_key(day), json.dumps({"rows": count}).encode())

    assert twitter_etl.drift(storage, DAY) is None
    for ago, count in enumerate([100, 90, 110], start=1):
        manifest(DAY - timedelta(days=ago), count)
    for count, said in [(50, False), (49, True), (200, False), (201, True), (100, False)]:
        manifest(DAY, count)
        assert bool(twitter_etl.drift(storage, DAY)) is said


def test_the_event_tells_rows_cost_and_digest(x, client, storage, caplog):
    import hashlib

    users = twitter_etl.resolve_users(client, storage, USERNAMES, DAY)
    extractions = [twitter_etl.extract(client, storage, user, DAY) for user in users]
    for ago in range(1, 4):
        storage.put(twitter_etl.manifest_key(DAY - timedelta(days=ago)), b'{"rows": 1000}')
    event = twitter_etl.event(storage, twitter_etl.load(storage, extractions, DAY))
    assert event["rows"] == 21 and event["users"] == 3 and event["usd"] == 0.135
    assert event["sha256"] == hashlib.sha256(storage.get(twitter_etl.manifest_key(DAY))).hexdigest()
    assert event["drift"] in caplog.text


# Days.


def test_a_window_is_one_utc_day_that_is_over():
    assert twitter_etl.day_of(START, END) == DAY
    for start, end in [(START, START + timedelta(hours=1)), (START + timedelta(hours=1), END + timedelta(hours=1))]:
        with pytest.raises(x_api.XApiError, match="not one UTC day"):
            twitter_etl.day_of(start, end)
    with pytest.raises(x_api.XApiError, match="is not over"):
        twitter_etl.day_of(*twitter_etl.window(datetime.now(UTC).date()))


def test_the_day_clocks_change_has_24_hours_too():
    start, end = twitter_etl.window(date(2026, 10, 25))
    assert end - start == timedelta(days=1) and twitter_etl.day_of(start, end) == date(2026, 10, 25)


def test_an_old_day_beside_todays_is_a_day_of_its_own(x, client, storage):
    collect(client, storage)
    today = snapshot(storage)
    old = DAY - timedelta(days=20)
    users = twitter_etl.resolve_users(client, storage, USERNAMES, old)
    twitter_etl.load(storage, [twitter_etl.extract(client, storage, user, old) for user in users], old)
    now = snapshot(storage)
    assert {key: now[key] for key in today} == today
    assert all(f"dt={old}" in key for key in set(now) - set(today))
