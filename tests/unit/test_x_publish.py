"""A day made public: bad users left out, others left alone, the manifest last."""

import contextlib
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from etl import twitter_etl
from etl.storage import Storage
from etl.x import client as x_client
from etl.x import errors, raw
from etl.x import manifest as published
from etl.x.errors import QualityError
from lab.settings import USERNAMES
from tests.unit.x_day import DAY, Cut, Killed, announce_more, collect, looked_up, pages, rows, snapshot, spoil


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


def test_a_user_who_fails_the_checks_is_left_out_and_named(x, client, storage, caplog):
    found = [twitter_etl.extract(client, storage, user, DAY) for user in looked_up(client, storage)]
    spoil(storage, 1001, announce_more)
    manifest = twitter_etl.publish(storage, found, DAY)
    assert manifest["rows"] == 14 and not storage.keys(f"curated/x/posts/dt={DAY}/user_id=1001/")
    (line,) = twitter_etl.event(storage, manifest)["missing"]
    assert "runway_rita: X announced 8 posts and sent 7" in line
    quarantined = storage.keys(f"quarantine/x/posts/dt={DAY}/user_id=1001/")
    assert [key.rsplit("/", 1)[1] for key in quarantined] == ["posts.csv", "problems.json"]
    # Once the reason is gone nothing is bought again.
    asked = len(x.log)
    spoil(storage, 1001, lambda body: body["meta"].update(result_count=7))
    assert collect(client, storage)["rows"] == 21 and len(x.log) == asked


def test_where_nobody_passes_nothing_is_published(x, client, storage):
    collect(client, storage)
    before = snapshot(storage, "curated/")
    for person in x.people:
        spoil(storage, person.id, announce_more)
    with pytest.raises(QualityError, match=r"runway_rita: X announced 8 posts and sent 7.*delete raw/x/posts"):
        collect(client, storage)
    assert snapshot(storage, "curated/") == before


def test_a_post_that_lacks_something_is_left_out_and_kept(x, client, storage):
    found = [twitter_etl.extract(client, storage, user, DAY) for user in looked_up(client, storage)]
    spoil(storage, 1001, lambda body: body["data"][3].pop("public_metrics"))
    manifest = twitter_etl.publish(storage, found, DAY)
    assert manifest["rows"] == 20 and len(rows(storage, 1001)) == 6
    assert twitter_etl.event(storage, manifest)["missing"] == ["runway_rita: 1 posts with no like_count"]
    (kept,) = storage.get(f"quarantine/x/posts/dt={DAY}/user_id=1001/rejected.jsonl").decode().splitlines()
    assert json.loads(kept)["reason"] == "no like_count" and json.loads(kept)["post"]["text"]


def test_a_run_for_other_users_leaves_the_rest_of_the_day_alone(x, client, storage):
    """The manifest is the union of what was published, and readers of files see the same."""
    whole = Storage(storage.address + "-whole")
    collect(client, whole)
    for names in (USERNAMES[1:], USERNAMES[:1], USERNAMES[:1]):
        manifest = collect(client, storage, names)
    assert snapshot(storage, "curated/") == snapshot(whole, "curated/") and manifest["rows"] == 21


def test_a_user_who_is_gone_keeps_what_was_bought(x, client, storage):
    collect(client, storage)
    before = {key: content for key, content in snapshot(storage, "curated/").items() if key.endswith(".csv")}
    for key in storage.keys(f"raw/x/users/dt={DAY}/"):
        (Path(storage.address) / key).unlink()
    x.people[1].status, x.people[2].status = "suspended", "protected"
    manifest = collect(client, storage)
    assert [user["status"] for user in manifest["users"]] == ["ok", "suspended", "protected"]
    assert manifest["rows"] == 21
    assert {key: content for key, content in snapshot(storage, "curated/").items() if key.endswith(".csv")} == before


@pytest.mark.parametrize("after", range(6))
def test_a_second_publication_that_is_cut_off_leaves_no_manifest_that_lies(x, client, storage, monkeypatch, after):
    collect(client, storage)
    for person in x.people:
        spoil(storage, person.id, lambda body: body["data"][0]["public_metrics"].update(like_count=9999))
    put, calls = Storage.put, []

    def cut_off(self, key, content):
        if self is storage:
            calls.append(key)
            if len(calls) > after:
                raise KeyboardInterrupt
        return put(self, key, content)

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "put", cut_off)
        with contextlib.suppress(KeyboardInterrupt):
            collect(client, storage)
    found = published.manifest_of(storage, DAY)
    assert (found is not None) == (after in (0, 5))
    for entry in (one for user in (found or {"users": []})["users"] for one in user["objects"]):
        assert hashlib.sha256(storage.get(entry["key"])).hexdigest() == entry["sha256"]
    collect(client, storage)
    assert "9999" in storage.get(f"curated/x/posts/dt={DAY}/user_id=1000/posts.csv").decode()
    assert len(published.manifest_of(storage, DAY)["users"]) == 3


def test_an_object_that_is_gone_is_written_again(x, client, storage):
    collect(client, storage)
    key = f"curated/x/posts/dt={DAY}/user_id=1001/posts.csv"
    before = storage.get(key)
    (Path(storage.address) / key).unlink()
    collect(client, storage)
    assert storage.get(key) == before


@pytest.mark.parametrize("gone", [False, True])
def test_a_publication_that_was_cut_off_stays_so_until_its_users_are_run_again(x, client, storage, gone):
    collect(client, storage)
    for person in x.people:
        spoil(storage, person.id, lambda body: body["data"][0]["public_metrics"].update(like_count=9999))
    # After the first user's object.
    with pytest.raises(Killed):
        collect(client, Cut(storage, 2, written_first=True))
    if gone:
        (Path(storage.address) / f"curated/x/posts/dt={DAY}/user_id=1000/posts.csv").unlink()
    manifest = collect(client, storage, USERNAMES[1:])
    assert not manifest["complete"] and published.manifest_of(storage, DAY) is None
    assert published.missing(manifest) == [
        f"{USERNAMES[0]}: a publication of {USERNAMES[0]} was cut off: run the DAG for this user again"
    ]
    manifest = collect(client, storage)
    assert manifest["complete"] and published.missing(manifest) == []


def test_look_ups_of_an_earlier_version_are_not_bought_again(x, client, storage):
    looked_up(client, storage)
    kept = snapshot(storage, "raw/x/users/")
    users = [raw.unpack(content)[1]["data"] for content in kept.values()]
    for key in kept:
        (Path(storage.address) / key).unlink()
    content = raw.pack({"fetched_at": "2026-11-02T00:40:00Z"}, json.dumps({"data": users}).encode())
    storage.put(f"raw/x/users/dt={DAY}/answer-0a1b2c3d-users-003.jsonl.gz", content)
    asked = len(x.log)
    assert [user.status for user in looked_up(client, storage)] == ["ok"] * 3 and len(x.log) == asked


def test_one_odd_post_on_the_last_page_costs_itself_alone(x, client, storage, busy):
    busy.posts_per_day = 101
    (user,) = looked_up(client, storage, ["busy"])
    twitter_etl.extract(client, storage, user, DAY)
    last = storage.keys(f"raw/x/posts/dt={DAY}/user_id=7/")[-1]
    head, body = raw.unpack(storage.get(last))
    body["data"][0].pop("public_metrics")
    storage.put(last, raw.pack(head, json.dumps(body).encode()))
    assert collect(client, storage, ["busy"])["rows"] == 100


def test_a_page_without_what_was_asked_for_is_the_last_that_is_bought(x, client, storage, busy, monkeypatch):
    ask = x_client.Client.posts

    def without(self, *given):
        answer = ask(self, *given)
        for post in answer.body["data"]:
            post.pop("created_at")
        return replace(answer, content=json.dumps(answer.body).encode())

    monkeypatch.setattr(x_client.Client, "posts", without)
    (user,) = looked_up(client, storage, ["busy"])
    found = twitter_etl.extract(client, storage, user, DAY)
    assert found.pages == 1 and "page 1 of busy without created_at" in found.problem
    assert twitter_etl.extract(client, storage, user, DAY) == found and len(pages(x)) == 1
    with pytest.raises(QualityError, match="busy without created_at"):
        twitter_etl.publish(storage, [found], DAY)


@pytest.mark.parametrize("dialect", ["tweet", "post", "mixed", "both"])
def test_either_dialect_of_x_is_detected(x, client, storage, dialect):
    x.dialect = dialect
    assert collect(client, storage)["rows"] == 21
    assert {entry["status"] for entry in x.log} == {200}


def test_names_that_change_after_the_look_up_cost_nothing(x, client, storage):
    found = looked_up(client, storage)
    x.dialect = "post"
    for user in found:
        twitter_etl.extract(client, storage, user, DAY)
    assert [entry["status"] for entry in x.log] == [200, 400, 200, 200, 200] and x.usd == 0.135


@pytest.mark.parametrize("size", [0, 10**9])
def test_an_object_of_another_size_is_no_success(x, client, storage, monkeypatch, size):
    monkeypatch.setattr(Storage, "size", lambda self, key: size)
    with pytest.raises(OSError, match="another size"):
        collect(client, storage)
    assert published.manifest_of(storage, DAY) is None


def test_an_unknown_format_is_named(x, client, storage):
    with pytest.raises(errors.XError, match=r"avro: use csv or parquet"):
        collect(client, storage, formats=["avro"])
