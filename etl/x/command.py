"""The X pipeline without Airflow: python -m etl.twitter_etl --help"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from etl.errors import PermanentError, TemporaryError
from etl.storage import Storage
from etl.x import client as x
from etl.x.budget import Budget
from etl.x.days import day_of, window
from etl.x.errors import XError
from etl.x.extract import Extraction, extract
from etl.x.manifest import drift, missing
from etl.x.prices import dollars
from etl.x.publish import FORMATS, publish
from etl.x.users import resolve_users

KEYS = ("bearer_token", "consumer_key", "consumer_secret", "access_token", "access_token_secret")


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(
        prog="python -m etl.twitter_etl",
        description="Collect the posts of X users, day by day, as CSV in a folder or on S3. Run it again to go on "
        "where it stopped: nothing is bought twice.",
        epilog="The key comes from the environment: X_BEARER_TOKEN, or X_CONSUMER_KEY, X_CONSUMER_SECRET, "
        "X_ACCESS_TOKEN and X_ACCESS_TOKEN_SECRET. X_API_URL leads elsewhere than https://api.x.com.",
    )
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date()
    budget = Budget()
    options.add_argument("usernames", nargs="+", metavar="USERNAME", help="users of X, e.g. nasa esa")
    options.add_argument("--to", default="data", metavar="WHERE", help="a folder or s3://BUCKET (default: data)")
    options.add_argument("--day", type=date.fromisoformat, default=yesterday, help="UTC day (default: yesterday)")
    options.add_argument("--until", type=date.fromisoformat, metavar="DAY", help="and all days up to this one")
    options.add_argument("--formats", nargs="+", default=["csv"], choices=list(FORMATS))
    options.add_argument("--formula-guard", action="store_true", help="put ' before cells that a spreadsheet would run")
    options.add_argument("--no-expand", action="store_true", help="leave retweets cut at 140 characters, and pay less")
    options.add_argument("--strict", action="store_true", help="fail where a user is not shown")
    options.add_argument("--max-posts", type=int, default=budget.posts, help="posts a day (default: %(default)s)")
    options.add_argument(
        "--max-usd", type=Decimal, default=dollars(budget.mills), help="USD a day (default: %(default)s)"
    )
    return options


def main() -> None:
    """Run, and end with code 1 and one line where something must be changed."""
    given = parser().parse_args()
    console = Console(stderr=True)
    logging.basicConfig(format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
    try:
        collect(given, console)
    except (PermanentError, TemporaryError, ModuleNotFoundError) as error:
        console.print(f"[red]{type(error).__name__}:[/red] ", end="")
        console.print(str(error), markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Stopped. Run the same command again to go on.")
        sys.exit(130)


def collect(given: argparse.Namespace, console: Console) -> None:
    """Collect each day in turn and show its rows and cost."""
    keys = x.Keys(**{name: os.environ.get(f"X_{name.upper()}", "") for name in KEYS})
    if not keys.bearer_token and not keys.signs:
        raise XError("there is no key: export X_BEARER_TOKEN=… from X's developer console")
    client = x.Client(keys, os.environ.get("X_API_URL", x.BASE_URL))
    storage = Storage(given.to)
    day = given.day
    while day <= (given.until or given.day):
        day_of(*window(day))
        with _progress(console) as progress:
            extractions = _extract(client, storage, given, day, progress)
            manifest = publish(storage, extractions, day, given.formats, given.formula_guard)
        Console().print(_table(manifest))
        for warning in filter(None, [*missing(manifest), drift(storage, day)]):
            console.print(warning, style="yellow", markup=False)
        day += timedelta(days=1)


def _extract(
    client: x.Client, storage: Storage, given: argparse.Namespace, day: date, progress: Progress
) -> list[Extraction]:
    budget = Budget.of(given.max_posts, given.max_usd)
    users = _waiting(progress, lambda: resolve_users(client, storage, given.usernames, day, given.strict))
    bar = progress.add_task(str(day), total=len(users), posts=0, note="")
    counts = {"posts": 0}

    def advance(posts: int) -> None:
        counts["posts"] += posts
        progress.update(bar, posts=counts["posts"])

    extractions = []
    for user in users:
        progress.update(bar, note=user.username)
        step = partial(extract, client, storage, user, day, budget, not given.no_expand, advance)
        extractions.append(_waiting(progress, step))
        progress.advance(bar)
    progress.update(bar, note="")
    return extractions


def _waiting(progress: Progress, step: Any) -> Any:
    """Run a step; if it says when to retry, wait and retry: it resumes where it stopped."""
    while True:
        try:
            return step()
        except TemporaryError as error:
            if error.seconds is None:
                raise
            progress.console.print(str(error))
            time.sleep(error.seconds)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("users, {task.fields[posts]} new posts"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def _table(manifest: dict[str, Any]) -> Table:
    table = Table(title=f"{manifest['day']}: {manifest['rows']} posts, {manifest['usd']:.2f} USD")
    for name in ("user", "status", "posts", "bought", "pages", "not used"):
        table.add_column(name, justify="left" if name in {"user", "status", "not used"} else "right")
    for user in manifest["users"]:
        unused = {name: user.get(name, 0) for name in ("duplicates", "superseded", "outside")}
        unused |= user.get("rejected", {})
        said = ", ".join(f"{count} {name}" for name, count in unused.items() if count)
        table.add_row(user["username"], user["status"], str(user["rows"]), str(user["posts"]), str(user["pages"]), said)
    return table
