"""The summary of a published day."""

import struct
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest

from etl import twitter_etl, twitter_summary
from lab.settings import USERNAMES
from lab.x_api.people import Person

DAY = date(2026, 11, 1)


def publish(client, storage, names, **options):
    users = twitter_etl.resolve_users(client, storage, names, DAY)
    twitter_etl.load(storage, [twitter_etl.extract(client, storage, user, DAY) for user in users], DAY, **options)


@pytest.mark.parametrize("formats", [["csv"], ["parquet"]])
def test_a_row_and_a_picture_for_each_user(x, client, storage, formats):
    x.people += [Person("7", "silent", posts_per_day=0), Person("8", "gone", status="suspended")]
    publish(client, storage, [*USERNAMES, "silent", "gone"], formats=formats)
    addresses = twitter_summary.summarise(storage, DAY)
    assert len(addresses) == 5
    table = pd.read_csv(addresses[-1], dtype={"most_liked_post_id": "str", "busiest_hour": "Int64"})
    assert list(table.columns) == twitter_summary.COLUMNS
    assert dict(zip(table.username, table.posts, strict=True)) == {**dict.fromkeys(USERNAMES, 7), "silent": 0}
    expected = [post["public_metrics"]["like_count"] for post in x.people[0].posts(*twitter_etl.window(DAY), 99)]
    assert table.like_count[0] == sum(expected)
    for address in addresses[:-1]:
        content = Path(address).read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", content[16:24]) == (960, 540)


def test_the_same_day_gives_the_same_picture(x, client, storage):
    publish(client, storage, USERNAMES[:1])
    first, second = ([storage.get(key) for key in keys(storage)] for _ in range(2))
    assert first == second and first


def keys(storage):
    twitter_summary.summarise(storage, DAY)
    return storage.keys("curated/x/summary/")


def test_a_day_that_is_not_published_is_named(storage):
    with pytest.raises(FileNotFoundError, match="2026-11-01 is not published"):
        twitter_summary.summarise(storage, DAY)


def test_days_of_events_are_each_there_once():
    events = [{"day": str(DAY + timedelta(days=number))} for number in (1, 0, 1)]
    assert twitter_summary.days(events) == [DAY, DAY + timedelta(days=1)]
