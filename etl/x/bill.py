"""What X charged in a month, by day of purchase and user, before X's discounts."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from datetime import date

import pandas as pd

from etl.storage import Storage
from etl.x import raw
from etl.x.manifest import manifest_of
from etl.x.prices import POST_MILLS, USER_MILLS, dollars

BILL = "curated/x/bill"
COLUMNS = ["bought_on", "user_id", "username", "posts", "look_ups", "usd"]

log = logging.getLogger(__name__)


def write_bill(storage: Storage, today: date) -> str:
    """Write the bill of the month that a day is in; return its address. Days are those of X's clock, in UTC."""
    month = f"{today:%Y-%m}"
    posts: dict[tuple[str, str], int] = defaultdict(int)
    names: dict[str, str] = {}
    days = set()
    for key in storage.keys(f"{raw.POSTS}/"):
        if raw.bought_on(key).startswith(month) and (found := re.search(r"/dt=([\d-]+)/user_id=(\d+)/", key)):
            posts[raw.bought_on(key), found[2]] += raw.charged(key)
            days.add(found[1])
    for day in sorted(days):
        names |= {
            user["id"]: user["username"]
            for user in (manifest_of(storage, date.fromisoformat(day)) or {}).get("users", [])
        }
    rows = [[on, user, names.get(user, ""), count, 0, count * POST_MILLS] for (on, user), count in posts.items()]
    rows += _look_ups(storage, month)
    table = pd.DataFrame(rows, columns=COLUMNS).sort_values(COLUMNS[:3], ignore_index=True)
    total, of_today = int(table.usd.sum()), int(table.usd[table.bought_on == str(today)].sum())
    log.info("X charged %s USD in %s, %s of it on %s", dollars(total), month, dollars(of_today), today)
    table.usd = [str(dollars(mills)) for mills in table.usd]
    return storage.put(f"{BILL}/month={month}.csv", table.to_csv(index=False, lineterminator="\n").encode())


def _look_ups(storage: Storage, month: str) -> list[list[object]]:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for key in storage.keys(f"{raw.USERS}/"):
        if raw.bought_on(key).startswith(month) and raw.charged(key):
            counts[raw.bought_on(key), key.rsplit("/", 1)[1].split("-")[0]] += raw.charged(key)
    return [[on, "", name, 0, count, count * USER_MILLS] for (on, name), count in counts.items()]
