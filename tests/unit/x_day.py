"""A day of the X pipeline against the stand-in: what its tests share."""

import csv
import io
import json
from datetime import date

from etl import twitter_etl
from etl.x import raw
from lab.settings import USERNAMES

DAY = date(2026, 11, 1)
START, END = twitter_etl.window(DAY)


def collect(client, storage, usernames=USERNAMES, budget=None, **options):
    users = twitter_etl.resolve_users(client, storage, list(usernames), DAY)
    extractions = [twitter_etl.extract(client, storage, user, DAY, budget) for user in users]
    return twitter_etl.publish(storage, extractions, DAY, **options)


def rows(storage, number):
    content = storage.get(f"curated/x/posts/dt={DAY}/user_id={number}/posts.csv")
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def snapshot(storage, prefix=""):
    """What is stored; a reservation says when it was made."""
    return {key: storage.get(key) for key in storage.keys(prefix) if not key.startswith(raw.RESERVED)}


def pages(x):
    """The timeline requests that were answered with posts or the end of them."""
    return [
        (entry["path"], entry["query"].get("pagination_token"))
        for entry in x.log
        if "/tweets" in entry["path"] and entry["status"] == 200
    ]


def looked_up(client, storage, names=USERNAMES):
    return twitter_etl.resolve_users(client, storage, list(names), DAY)


def rows_of(manifest, storage):
    return [row for user in manifest["users"] for row in rows(storage, user["id"])]


def spoil(storage, number, change):
    """Change the first page of a user as if X had sent it so."""
    key = storage.keys(f"raw/x/posts/dt={DAY}/user_id={number}/")[0]
    head, body = raw.unpack(storage.get(key))
    change(body)
    storage.put(key, raw.pack(head, json.dumps(body).encode()))


def announce_more(body):
    body["meta"]["result_count"] += 1


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
        if self.left < 0 or (self.left == 0 and not self.written_first):
            raise Killed
        self.storage.put(key, content)
        if self.left == 0:
            raise Killed
