"""A small summary of a published day: one row a user, and a picture of each user's day."""

from __future__ import annotations

import io
from datetime import date
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from etl.contract import TYPES
from etl.storage import Storage
from etl.x.contract import POSTS
from etl.x.manifest import manifest_of

SUMMARY = "curated/x/summary"
COLUMNS = ["username", "posts", "like_count", "retweet_count", "busiest_hour", "most_liked_post_id"]


def summarise(storage: Storage, day: date, columns: list[str]) -> list[str]:
    """Write a day's summary.csv and one summary.png a user with posts read; return their addresses.

    It reads no other `columns` of the posts. Raises FileNotFoundError where the day is not published.
    """
    manifest = manifest_of(storage, day)
    if manifest is None:
        raise FileNotFoundError(f"{day} is not published: run the DAG twitter for it")
    rows, written = [], []
    for user in manifest["users"]:
        if not user.get("objects"):
            continue
        frame = posts(storage, user, columns)
        rows.append(row(user["username"], frame))
        key = f"{SUMMARY}/dt={day}/user_id={user['id']}/summary.png"
        written.append(storage.put(key, picture(user["username"], day, frame)))
    table = pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, lineterminator="\n")
    written.append(storage.put(f"{SUMMARY}/dt={day}/summary.csv", table.encode()))
    return written


def posts(storage: Storage, user: dict[str, Any], columns: list[str]) -> pd.DataFrame:
    """Return columns of one user's published posts, times in UTC."""
    objects = {entry["key"].rsplit(".", 1)[1]: entry["key"] for entry in user["objects"]}
    if "csv" in objects:
        types = {column.name: TYPES[column.type][0] for column in POSTS.columns if column.type != "timestamp"}
        times = [column.name for column in POSTS.columns if column.type == "timestamp" and column.name in columns]
        content = io.BytesIO(storage.get(objects["csv"]))
        frame = pd.read_csv(content, usecols=columns, dtype=types, keep_default_na=False)
        return frame.assign(**{name: pd.to_datetime(frame[name], utc=True) for name in times})
    return pd.read_parquet(io.BytesIO(storage.get(objects["parquet"])), columns=columns)


def row(username: str, frame: pd.DataFrame) -> dict[str, Any]:
    """Return a user's line of the summary, with the keys of COLUMNS."""
    hours = frame.created_at.dt.hour.value_counts()
    return {
        "username": username,
        "posts": len(frame),
        "like_count": int(frame.like_count.sum()),
        "retweet_count": int(frame.retweet_count.sum()),
        "busiest_hour": "" if frame.empty else int(hours[hours == hours.max()].index.min()),
        "most_liked_post_id": "" if frame.empty else frame.post_id[frame.like_count.idxmax()],
    }


def picture(username: str, day: date, frame: pd.DataFrame) -> bytes:
    """Return a PNG of 960 x 540 pixels: the posts of each hour, and the likes that they got."""
    hours = pd.RangeIndex(24)
    by_hour = frame.groupby(frame.created_at.dt.hour)
    figure = Figure(figsize=(9.6, 5.4), dpi=100, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.bar(hours, by_hour.size().reindex(hours, fill_value=0), color="#1d6fa5")
    above.set_ylabel("posts")
    below.bar(hours, by_hour.like_count.sum().reindex(hours, fill_value=0), color="#d9822b")
    below.set_ylabel("likes")
    below.set_xlabel("hour (UTC)")
    below.set_xticks(range(0, 24, 2))
    figure.suptitle(f"@{username} on {day}: {len(frame)} posts, {int(frame.like_count.sum()):,} likes", fontsize=14)
    for axes in (above, below):
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def days(extras: list[dict[str, Any]]) -> list[date]:
    """Return the days that events of the asset x_posts are about, each once, oldest first."""
    return sorted({date.fromisoformat(extra["day"]) for extra in extras})
