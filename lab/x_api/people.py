"""Invented people. Their posts are a pure function of name and day, so that two runs over a day see the same."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from lab.settings import USERNAMES

EPOCH_MS = 1_288_834_974_657
POSTS_PER_DAY = 7
DAY = timedelta(days=1)
# Nobody here posted before; the real API has the newest 3,200 posts of a user at most.
FIRST_DAY = datetime(2025, 1, 1, tzinfo=UTC)
NOUNS = ["runway", "tower", "hangar", "windsock", "glider", "radar", "apron", "flight plan"]
VERBS = ["shines", "waits", "hums", "sleeps", "spins", "lands", "taxis", "climbs"]
# The text that breaks careless pipelines: quotes, commas, line breaks, entities, emoji.
ENDS = [".", ', "as planned".', "\nSecond line.", " &amp; more.", " \U0001f6e9\ufe0f!", " = 1 + 1", "…"]


@dataclass
class Person:
    """A user; `status` is ok, protected or suspended; `written` come beside the daily posts, which end with `last`."""

    id: str
    username: str
    posts_per_day: int = POSTS_PER_DAY
    status: str = "ok"
    written: list[dict] = field(default_factory=list)
    last: datetime | None = None

    def posts(self, start: datetime, end: datetime, limit: int) -> list[dict]:
        """The newest posts before `end`, newest first; none before `start`, and only the newest version of each."""
        day = min(end.replace(hour=0, minute=0, second=0, microsecond=0), self.last or end)
        begin, stop = stamp(start), stamp(end)
        found = [post for post in self.written if begin <= post["created_at"] < stop]
        old = {version for post in self.written for version in post["edit_history_tweet_ids"][:-1]}
        while self.posts_per_day and day + DAY > max(start, FIRST_DAY) and len(found) < limit:
            found += [post for post in posts(self, day) if begin <= post["created_at"] < stop]
            day -= DAY
        return sorted((post for post in found if post["id"] not in old), key=lambda post: -int(post["id"]))[:limit]


def stamp(time: datetime) -> str:
    """A time as X writes it."""
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03}Z"


def snowflake(created: datetime, sequence: int = 0) -> str:
    """The id of a post: its milliseconds, and 22 bits more."""
    return str((int(created.timestamp() * 1000) - EPOCH_MS) << 22 | sequence)


def written(person: Person, created: datetime, text: str, **fields: object) -> dict:
    """A post in the older of the two dialects, with all fields that can be asked for."""
    number = snowflake(created, int(person.id) % 2**22)
    return {
        "id": number,
        "text": text,
        "edit_history_tweet_ids": [number],
        "created_at": stamp(created),
        "author_id": person.id,
        "conversation_id": number,
        "lang": "en",
        "public_metrics": {
            "retweet_count": 0,
            "reply_count": 0,
            "like_count": 0,
            "quote_count": 0,
            "bookmark_count": 0,
            "impression_count": 0,
        },
        **fields,
    }


def posts(person: Person, day: datetime) -> list[dict]:
    """A person's daily posts of one UTC day, oldest first."""
    return _posts(person.username, person.id, person.posts_per_day, day)


# Few, because a day may hold 3,200 posts.
@lru_cache(maxsize=64)
def _posts(username: str, number: str, count: int, day: datetime) -> list[dict]:
    rng = random.Random(f"{username} {day:%Y-%m-%d}")
    person = Person(number, username)
    found = []
    for second in sorted(rng.sample(range(86_400), count)):
        text = f"The {rng.choice(NOUNS)} {rng.choice(VERBS)}{rng.choice(ENDS)}"
        post = written(person, day + timedelta(seconds=second), text)
        post["public_metrics"] = {
            "retweet_count": rng.randrange(50),
            "reply_count": rng.randrange(9),
            "like_count": rng.randrange(500),
            "quote_count": rng.randrange(5),
            "bookmark_count": rng.randrange(5),
            "impression_count": rng.randrange(9000),
        }
        found.append(post)
    return found


def lab_people() -> list[Person]:
    """The people whom the lab's server reads."""
    return [Person(str(1000 + number), username) for number, username in enumerate(USERNAMES)]
