"""The summary of a published day."""

import json
import struct
from datetime import date, datetime, timedelta
from pathlib import Path

import boto3
import pandas as pd
import pytest
from moto.server import ThreadedMotoServer

from airstrip import spending
from dags.twitter_summary_dag import READS
from etl import twitter_etl
from etl.x import bill, summary
from lab.settings import USERNAMES
from lab.x_api.people import Person

DAY = date(2026, 11, 1)


def publish(client, storage, names, **options):
    users = twitter_etl.resolve_users(client, storage, names, DAY)
    twitter_etl.publish(storage, [twitter_etl.extract(client, storage, user, DAY) for user in users], DAY, **options)


@pytest.mark.parametrize("formats", [["csv"], ["parquet"]])
def test_a_row_and_a_picture_for_each_user(x, client, storage, formats):
    x.people += [Person("7", "silent", posts_per_day=0), Person("8", "gone", status="suspended")]
    publish(client, storage, [*USERNAMES, "silent", "gone"], formats=formats)
    addresses = summary.summarise(storage, DAY, READS)
    assert len(addresses) == 5
    table = pd.read_csv(addresses[-1], dtype={"most_liked_post_id": "str", "busiest_hour": "Int64"})
    assert list(table.columns) == summary.COLUMNS
    assert dict(zip(table.username, table.posts, strict=True)) == {**dict.fromkeys(USERNAMES, 7), "silent": 0}
    expected = [post["public_metrics"]["like_count"] for post in x.people[0].posts(*twitter_etl.window(DAY), 99)]
    assert table.like_count[0] == sum(expected)
    for address in addresses[:-1]:
        content = Path(address).read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", content[16:24]) == (960, 540)


def frame(*posts):
    """Posts by the hour, with their likes and retweets."""
    columns = ["created_at", "like_count", "retweet_count", "post_id"]
    rows = [
        (pd.Timestamp(2026, 11, 1, hour, 30, tz="UTC"), likes, retweets, str(number))
        for number, (hour, likes, retweets) in enumerate(posts, start=1)
    ]
    return pd.DataFrame(rows, columns=columns).astype({"created_at": "datetime64[us, UTC]"})


def test_a_row_of_the_summary():
    assert summary.row("ada", frame((3, 5, 1), (3, 9, 2), (7, 9, 4), (7, 0, 0), (9, 1, 1))) == {
        "username": "ada",
        "posts": 5,
        "like_count": 24,
        "retweet_count": 8,
        # Of two hours, or posts, the earlier one.
        "busiest_hour": 3,
        "most_liked_post_id": "2",
    }
    assert summary.row("ada", frame((1, 2, 0), (7, 1, 0), (7, 0, 0)))["busiest_hour"] == 7
    assert summary.row("ada", frame()) == {
        **dict.fromkeys(summary.COLUMNS, ""),
        **{"username": "ada", "posts": 0, "like_count": 0, "retweet_count": 0},
    }


def test_the_picture_has_a_bar_for_each_hour(drawn):
    summary.picture("ada", DAY, frame((3, 5, 1), (3, 9, 2), (23, 1000, 4)))
    (figure,) = drawn
    posts, likes = ([bar.get_height() for bar in axes.patches] for axes in figure.axes)
    assert posts == [{3: 2, 23: 1}.get(hour, 0) for hour in range(24)]
    assert likes == [{3: 14, 23: 1000}.get(hour, 0) for hour in range(24)]
    for axes in figure.axes:
        assert axes.get_ylim()[0] == 0
        assert [axes.spines[side].get_visible() for side in ("top", "right", "left")] == [False, False, True]
        assert all(tick == int(tick) for tick in axes.get_yticks())
    assert list(figure.axes[1].get_xticks()) == list(range(0, 24, 2))
    assert figure.get_suptitle() == "@ada on 2026-11-01: 3 posts, 1,014 likes"


def test_the_same_day_gives_the_same_picture(x, client, storage):
    publish(client, storage, USERNAMES[:1])
    first, second = ([storage.get(key) for key in keys(storage)] for _ in range(2))
    assert first == second and first


def keys(storage):
    summary.summarise(storage, DAY, READS)
    return storage.keys("curated/x/summary/")


def test_a_day_that_is_not_published_is_named(storage):
    with pytest.raises(FileNotFoundError, match="2026-11-01 is not published"):
        summary.summarise(storage, DAY, READS)


def test_days_of_events_are_each_there_once():
    events = [{"day": str(DAY + timedelta(days=number))} for number in (1, 0, 1)]
    assert summary.days(events) == [DAY, DAY + timedelta(days=1)]


def test_the_bill_says_what_was_bought_when_and_for_whom(x, client, storage):
    x.people.append(Person("7", "busy", posts_per_day=120))
    names = [USERNAMES[0], "busy"]
    publish(client, storage, names)
    address = bill.write_bill(storage, date(2026, 11, 2))
    content = storage.get("curated/x/bill/month=2026-11.csv").decode()
    assert address.endswith("curated/x/bill/month=2026-11.csv")
    assert content.splitlines() == [
        "bought_on,user_id,username,posts,look_ups,usd",
        f"2026-11-02,,{USERNAMES[0]},0,1,0.01",
        "2026-11-02,,busy,0,1,0.01",
        f"2026-11-02,1000,{USERNAMES[0]},7,0,0.035",
        "2026-11-02,7,busy,120,0,0.6",
    ]
    assert sum(float(line.rsplit(",", 1)[1]) for line in content.splitlines()[1:]) == pytest.approx(x.usd)
    users = {"busy": "0.61", USERNAMES[0]: "0.045"}
    assert spending.spending(content, date(2026, 11, 2)) == {"month": "0.655", "today": "0.655", "users": users}
    assert spending.spending(content, date(2026, 11, 3)) == {"month": "0.655", "today": "0", "users": users}
    bill.write_bill(storage, date(2026, 12, 1))
    assert len(storage.get("curated/x/bill/month=2026-12.csv").splitlines()) == 1


@pytest.fixture
def bucket(monkeypatch):
    """An S3 with a bucket, and an instance that may use it."""
    server = ThreadedMotoServer(port=0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AIRFLOW_VAR_X_BUCKET", "spending")
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="spending")
    yield s3
    server.stop()


def test_the_doctor_is_told_what_was_spent(bucket, monkeypatch, capsys):
    def said():
        assert spending.main(date(2026, 11, 2)) == 0
        return json.loads(capsys.readouterr().out)

    assert said() == {"bucket": "spending"}
    bill = "bought_on,user_id,username,posts,look_ups,usd\n2026-11-02,1,ada,2,0,0.010\n"
    bucket.put_object(Bucket="spending", Key="curated/x/bill/month=2026-11.csv", Body=bill.encode())
    found = said()
    assert datetime.fromisoformat(found.pop("as_of"))
    assert found == {"bucket": "spending", "month": "0.010", "today": "0.010", "users": {"ada": "0.010"}}
    monkeypatch.setenv("AIRFLOW_VAR_X_BUCKET", "another")
    assert spending.main() == 1 and "NoSuchBucket" in capsys.readouterr().err
    monkeypatch.delenv("AIRFLOW_VAR_X_BUCKET")
    assert said() == {"bucket": ""}
