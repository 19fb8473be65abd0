"""Posts of X (Twitter) users, one UTC day at a time: read from X once, kept raw, published as CSV.

Below the destination, a folder or a bucket:

    raw/x/users/dt=2026-11-21/answer-0a1b2c3d-users-050.jsonl.gz       what X said of the usernames
    raw/x/posts/dt=2026-11-21/user_id=1/page-0001-posts-100.jsonl.gz   each page as it came, before the next
    curated/x/posts/dt=2026-11-21/user_id=1/posts.csv                  one user's clean posts
    curated/x/posts/dt=2026-11-21/_manifest.json                       written last: the day is whole

The names of raw objects hold how many posts or users X charged. The raw pages are the checkpoint: what was stored is
never asked for again, so that a run which was cut off goes on behind its last page, and a day that is run again costs
nothing and gives the same bytes.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import logging
import re
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from etl import x_posts
from etl.storage import Storage
from etl.x_api import (
    POST_USD,
    USER_USD,
    USERS_PER_REQUEST,
    BadPayload,
    Client,
    CreditsDepleted,
    RateLimited,
    TokenExpired,
    Transient,
    UsageCapped,
    XApiError,
)
from etl.x_posts import Batch

RAW_USERS = "raw/x/users"
RAW_POSTS = "raw/x/posts"
CURATED = "curated/x/posts"
CURATED_PARQUET = "curated/x/posts_parquet"
QUARANTINE = "quarantine/x/posts"
FORMATS = {"csv": (CURATED, x_posts.to_csv), "parquet": (CURATED_PARQUET, x_posts.to_parquet)}
PAGE_SIZE, SMALLEST_PAGE = 100, 5
# X has no more of a user, and says so with an empty answer.
NEWEST_POSTS = 3200
DRIFT_DAYS = 7
# As many may read at once without going over the budget by more than a page each.
TASKS = 8

log = logging.getLogger(__name__)


class BudgetSpent(XApiError):
    """The run may buy no more posts; what was bought is kept, and a later run goes on behind it."""


class QualityError(Exception):
    """A check before publishing failed: nothing was published, the rows are in quarantine."""


@dataclass(frozen=True)
class User:
    """A user by the id that lasts; the username may change its owner. `status` is ok, or why there are no posts."""

    id: str
    username: str
    status: str = "ok"
    posts_total: int = 0


@dataclass(frozen=True)
class Budget:
    """What one day may cost, what was bought by earlier runs of the day included."""

    max_posts: int = 20_000
    max_usd: float = 100.0

    def lowered(self, max_posts: int | None, max_usd: float | None) -> Budget:
        """Return the budget of a run that asks for less; None asks for nothing. Raises XApiError for more."""
        asked = Budget(self.max_posts if max_posts is None else max_posts, self.max_usd if max_usd is None else max_usd)
        for name in ("max_posts", "max_usd"):
            if getattr(asked, name) > getattr(self, name):
                raise XApiError(
                    f"{name} is {getattr(asked, name)}, above the {getattr(self, name)} of the variable x_{name}: ask "
                    f"for less, or raise airflow_variables.x_{name} and run playbooks/site.yml --tags airflow"
                )
        return asked


@dataclass(frozen=True)
class Extraction:
    """What one user's day consists of; `posts` are those X charged."""

    user: User
    pages: int = 0
    posts: int = 0


@dataclass(frozen=True)
class Page:
    """A stored page: where it stands in the day, and X's answer."""

    number: int
    fetched_at: datetime
    end: datetime
    token: str | None
    oldest: datetime | None
    body: dict[str, Any] = field(repr=False)

    @property
    def next_token(self) -> str | None:
        """What asks for the page after this one; None behind the last."""
        return self.body.get("meta", {}).get("next_token")


def window(day: date) -> tuple[datetime, datetime]:
    """Return the UTC day as [start, end)."""
    start = datetime.combine(day, time(), UTC)
    return start, start + timedelta(days=1)


def day_of(start: datetime, end: datetime) -> date:
    """Return the day that [start, end) is. Raises XApiError where it is not one whole UTC day that is over."""
    day = start.astimezone(UTC).date()
    if (start, end) != window(day):
        raise XApiError(f"{start} to {end} is not one UTC day: keep the schedule at 0 0 * * * in UTC")
    if end > datetime.now(UTC) - timedelta(seconds=30):
        raise XApiError(f"{day} is not over: X has more posts to come. Ask for a day before it")
    return day


def resolve_users(
    client: Client, storage: Storage, usernames: list[str], day: date, strict: bool = False
) -> list[User]:
    """Look the usernames up, 100 in a request, and return each user once with a status, in the order given.

    Statuses: ok, not_found, suspended, protected. What X said is kept, so that a second run of a day does
    not ask again. Raises XApiError where no user is ok, or, if `strict`, where one is not; RateLimited, Transient.
    """
    wanted = list(dict.fromkeys(name.strip().lstrip("@").lower() for name in usernames if name.strip()))
    if not wanted:
        raise XApiError("no usernames to read: set airflow_variables.x_usernames, e.g. 'nasa,esa'")
    wrong = [name for name in wanted if not re.fullmatch(r"[a-z0-9_]{1,15}", name)]
    if wrong:
        raise XApiError(f"{', '.join(wrong)}: usernames of X have 1 to 15 letters, digits and _; correct x_usernames")
    users: dict[str, User] = {}
    fresh: dict[str, bytes] = {}
    try:
        for first in range(0, len(wanted), USERS_PER_REQUEST):
            for user in _look_up(client, storage, wanted[first : first + USERS_PER_REQUEST], day, fresh):
                users.setdefault(user.id or user.username, user)
    except (RateLimited, Transient, UsageCapped, CreditsDepleted):
        _keep(storage, fresh)
        raise
    found = list(users.values())
    bad = {user.username: user.status for user in found if user.status != "ok"}
    for username, status in bad.items():
        log.warning("%s: %s", username, status)
    if len(bad) == len(found) or (strict and bad):
        said = ", ".join(f"{username} ({status})" for username, status in bad.items())
        raise XApiError(f"X does not show {said}: correct airflow_variables.x_usernames")
    # Only now, so that a run which failed for its users asks again.
    _keep(storage, fresh)
    return found


def _keep(storage: Storage, answers: dict[str, bytes]) -> None:
    for key, content in answers.items():
        storage.put(key, content)


def _look_up(client: Client, storage: Storage, names: list[str], day: date, fresh: dict[str, bytes]) -> Iterator[User]:
    key = f"{RAW_USERS}/dt={day}/answer-{hashlib.sha256(','.join(names).encode()).hexdigest()[:8]}"
    kept = [stored for stored in storage.keys(f"{RAW_USERS}/dt={day}/") if stored.startswith(key)]
    if kept:
        body = _unpack(storage.get(kept[0]))[1]
    else:
        answer = client.users(names)
        body = answer.body
        head = {"fetched_at": answer.fetched_at.strftime(x_posts.TIME)}
        fresh[f"{key}-users-{len(body.get('data', [])):03}.jsonl.gz"] = _pack(head, answer.content)
    found = {str(user.get("username", "")).lower(): user for user in body.get("data", [])}
    reasons = {str(error.get("value", "")).lower(): _status(error) for error in body.get("errors", [])}
    for name in names:
        user = found.get(name)
        if not user or not re.fullmatch(r"[0-9]+", str(user.get("id", ""))):
            yield User("", name, reasons.get(name, "not_found"))
            continue
        metrics = user.get("public_metrics") or {}
        total = metrics.get("tweet_count") or metrics.get("post_count") or 0
        yield User(str(user["id"]), name, "protected" if user.get("protected") else "ok", int(total))


def _status(error: dict[str, Any]) -> str:
    """What an error of one user means. X matches types on the last segment, and a suspended user by its words."""
    if "suspended" in str(error.get("detail", "")):
        return "suspended"
    problem = str(error.get("type", "")).rsplit("/", 1)[-1]
    return "protected" if problem == "not-authorized-for-resource" else "not_found"


def extract(
    client: Client,
    storage: Storage,
    user: User,
    day: date,
    budget: Budget | None = None,
    expand: bool = True,
    advance: Callable[[int], None] = lambda posts: None,
) -> Extraction:
    """Read one user's posts of a day and store each page before the next is asked for.

    Goes on behind the pages that are stored. `expand` also buys the posts that these refer to, which gives
    retweets their whole text. `advance` is told the posts of each new page.
    Raises XApiError (BudgetSpent among them), RateLimited, Transient; a later call then goes on.
    """
    if user.status != "ok":
        return Extraction(user)
    start, day_end = window(day)
    folder = f"{RAW_POSTS}/dt={day}/user_id={user.id}/"
    kept = storage.keys(folder)
    last = _page(storage, kept[-1]) if kept else None
    tokens, standstill, purse = set(), 0, _Purse(storage, day, budget or Budget())
    token, end = (last.next_token, last.end) if last else (None, day_end)
    whole = last is not None and not token
    while not whole:
        answer = None
        # A token that comes again leads in a circle.
        if token not in tokens:
            tokens |= {token} - {None}
            with contextlib.suppress(TokenExpired):
                answer = client.posts(user.id, start, end, token, purse.page(), expand)
        if answer is None:
            # From here the pages are asked for by time. Once that may gain nothing, where all was of one second.
            left = _behind(last, end)
            standstill = standstill + 1 if left == end else 0
            if standstill > 1:
                raise XApiError(f"X repeats the page before {end} again and again: try later, nothing is lost")
            token, end = None, left
            tokens.clear()
            continue
        refused = [error for error in answer.body.get("errors", []) if error.get("resource_type") == "user"]
        if refused and "data" not in answer.body:
            # These come with status 200; they must never pass for a day without posts.
            closed = User(user.id, user.username, _status(refused[0]), user.posts_total)
            log.warning("%s: %s, %d pages were read before", user.username, closed.status, len(kept))
            return Extraction(closed, len(kept), sum(_charged(key) for key in kept))
        posts = answer.body.get("data", [])
        if "meta" not in answer.body or not isinstance(posts, list):
            raise BadPayload(f"X's page for {user.username} has no meta: {answer.content[:200]!r}")
        times = [time for time in map(_created, posts) if time] + ([last.oldest] if last and last.oldest else [])
        oldest = min(times).strftime(x_posts.TIME) if times else None
        number = last.number + 1 if last else 1
        head = {
            "fetched_at": answer.fetched_at.strftime(x_posts.TIME),
            "end": end.strftime(x_posts.TIME),
            "token": token,
            "oldest": oldest,
        }
        charged = len(posts) + sum(len(extra) for extra in answer.body.get("includes", {}).values())
        key = f"{folder}page-{number:04}-posts-{charged:03}.jsonl.gz"
        storage.put(key, _pack(head, answer.content))
        kept.append(key)
        last = _parsed(number, head, answer.body)
        token = last.next_token
        whole = not token
        purse.take(charged)
        advance(charged)
    return Extraction(user, len(kept), sum(_charged(key) for key in kept))


def _behind(last: Page | None, end: datetime) -> datetime:
    """The end of the window that is left behind the stored pages; its newest second is read again."""
    if last is None or last.oldest is None:
        return end
    return min(end, last.oldest.replace(microsecond=0) + timedelta(seconds=1))


def _created(post: Any) -> datetime | None:
    """When a post was written, if it says so."""
    try:
        return datetime.fromisoformat(post["created_at"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError):
        return None


class _Purse:
    """What may still be bought for a day, while other tasks buy too: what is stored says what was bought.

    Storage is asked again when a share was bought, so that all tasks together stay within the budget, but for
    the last page of each.
    """

    def __init__(self, storage: Storage, day: date, budget: Budget) -> None:
        self._storage, self._day, self._budget = storage, day, budget
        self._left = self._share = 0

    def page(self) -> int:
        """How many posts the next page may have. Raises BudgetSpent."""
        if self._share <= 0:
            posts, usd = spent(self._storage, self._day)
            self._left = min(self._budget.max_posts - posts, int((self._budget.max_usd - usd) / POST_USD + 1e-6))
            self._share = self._left // TASKS
            if self._left < SMALLEST_PAGE:
                allowed = f"{self._budget.max_posts} posts and {self._budget.max_usd:.2f} USD"
                raise BudgetSpent(
                    f"{posts} posts ({usd:.2f} USD) of {self._day} are bought and the budget is {allowed}: "
                    "raise x_max_posts or x_max_usd (or start the day anew with more); what was bought is kept"
                )
        return min(self._left, PAGE_SIZE)

    def take(self, posts: int) -> None:
        """Note what was bought."""
        self._left -= posts
        self._share -= posts


def spent(storage: Storage, day: date) -> tuple[int, float]:
    """Return the posts that were bought for a day and what they and the users cost in USD, before X's discounts."""
    posts = sum(_charged(key) for key in storage.keys(f"{RAW_POSTS}/dt={day}/"))
    users = sum(_charged(key) for key in storage.keys(f"{RAW_USERS}/dt={day}/"))
    return posts, posts * POST_USD + users * USER_USD


def _charged(key: str) -> int:
    return int(key.rsplit("-", 1)[1].split(".")[0])


# Two lines: ours, and X's answer byte for byte. Without a time of its own the same content packs to the same bytes.
def _pack(head: dict[str, Any], content: bytes) -> bytes:
    return gzip.compress(json.dumps(head).encode() + b"\n" + content, compresslevel=1, mtime=0)


def _unpack(stored: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    head, content = gzip.decompress(stored).split(b"\n", 1)
    return json.loads(head), json.loads(content)


def _page(storage: Storage, key: str) -> Page:
    number = int(key.rsplit("/page-", 1)[1].split("-")[0])
    return _parsed(number, *_unpack(storage.get(key)))


def _parsed(number: int, head: dict[str, Any], body: dict[str, Any]) -> Page:
    oldest = datetime.fromisoformat(head["oldest"]) if head["oldest"] else None
    fetched_at, end = datetime.fromisoformat(head["fetched_at"]), datetime.fromisoformat(head["end"])
    return Page(number, fetched_at, end, head["token"], oldest, body)


def transform(storage: Storage, user: User, day: date) -> Batch:
    """Make one user's stored pages into clean rows; see x_posts.transform."""
    keys = storage.keys(f"{RAW_POSTS}/dt={day}/user_id={user.id}/")
    pages = (_page(storage, key) for key in keys)
    return x_posts.transform(user.username, ((page.body, page.fetched_at) for page in pages), *window(day))


def load(
    storage: Storage,
    extractions: list[Extraction],
    day: date,
    formats: list[str] | None = None,
    formula_guard: bool = False,
) -> dict[str, Any]:
    """Publish a day: all users are checked before the first object is written, and the manifest is written last.

    Holds one user's rows at a time. Returns the manifest. Raises QualityError (then the rows are in quarantine),
    XApiError where a format is unknown, StorageRefused.
    """
    formats = formats or ["csv"]
    unknown = set(formats) - set(FORMATS)
    if unknown:
        raise XApiError(f"unknown output formats {', '.join(sorted(unknown))}: use {' or '.join(FORMATS)}")
    users, bad = [], []
    with tempfile.TemporaryDirectory() as folder:
        staging = Storage(folder)
        for extraction in extractions:
            user = extraction.user
            entry: dict[str, Any] = {**asdict(user), "rows": 0, "pages": extraction.pages, "posts": extraction.posts}
            users.append(entry)
            if user.status != "ok" and not extraction.pages:
                continue
            batch = transform(storage, user, day)
            entry |= _account(batch, extraction, day)
            entry["objects"] = _write(staging, batch, user, day, formats, formula_guard)
            found = x_posts.problems(batch, *window(day))
            if found:
                bad.append(f"{user.username}: {'; '.join(found)}")
                key = f"{QUARANTINE}/dt={day}/user_id={user.id}"
                storage.put(f"{key}/posts.csv", x_posts.to_csv(batch.frame, formula_guard))
                storage.put(f"{key}/problems.json", json.dumps(found, indent=1).encode())
        if bad:
            raise QualityError(
                f"{day} is not published. {' | '.join(bad)}. The rows lie below "
                f"{storage.address}/{QUARANTINE}/dt={day}/; to buy the day once more, delete "
                f"{RAW_POSTS}/dt={day}/ and clear the run"
            )
        for key in staging.keys(""):
            content = staging.get(key)
            storage.put(key, content)
            if storage.size(key) != len(content):
                raise OSError(f"{key} was stored with another size: try again")
    posts, usd = spent(storage, day)
    manifest = {
        "schema_version": x_posts.SCHEMA_VERSION,
        "day": str(day),
        "columns": x_posts.COLUMNS,
        "formats": sorted(formats),
        "formula_guard": formula_guard,
        "rows": sum(user["rows"] for user in users),
        "posts_bought": posts,
        "usd": round(usd, 3),
        "users": users,
    }
    storage.put(manifest_key(day), json.dumps(manifest, indent=1).encode())
    return manifest


def _write(
    staging: Storage, batch: Batch, user: User, day: date, formats: list[str], formula_guard: bool
) -> list[dict[str, Any]]:
    written = []
    for name in sorted(formats):
        folder, write = FORMATS[name]
        content = write(batch.frame, formula_guard) if name == "csv" else write(batch.frame)
        key = f"{folder}/dt={day}/user_id={user.id}/posts.{name}"
        staging.put(key, content)
        written.append({"key": key, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    return written


def _account(batch: Batch, extraction: Extraction, day: date) -> dict[str, Any]:
    """What the manifest says of one user's posts."""
    reasons = Counter(rejected["reason"] for rejected in batch.rejected)
    warnings = []
    days = (batch.fetched_at - window(day)[0]) / timedelta(days=1) if batch.fetched_at else 0
    if batch.received * days >= NEWEST_POSTS * 0.75:
        warnings.append(f"X shows a user's newest {NEWEST_POSTS} posts: older ones of this day may be missing")
    elif batch.received == 0 and days > 2 and extraction.user.posts_total > NEWEST_POSTS:
        warnings.append(f"no posts, of an old day: X shows a user's newest {NEWEST_POSTS} only")
    if extraction.user.status != "ok":
        warnings.append(f"the user is {extraction.user.status} since: only the pages that were read before are here")
    if reasons:
        warnings.append(f"rejected: {', '.join(f'{count} with {reason}' for reason, count in sorted(reasons.items()))}")
    for warning in warnings:
        log.warning("%s on %s: %s", extraction.user.username, day, warning)
    return {
        "rows": len(batch.frame),
        "duplicates": batch.duplicates,
        "superseded": batch.superseded,
        "outside": batch.outside,
        "rejected": dict(reasons),
        "warnings": warnings,
    }


def event(storage: Storage, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what others are told of a published day: day, rows, users, usd, sha256, manifest, drift."""
    day = date.fromisoformat(manifest["day"])
    warning = drift(storage, day)
    if warning:
        log.warning("%s", warning)
    return {
        "day": manifest["day"],
        "rows": manifest["rows"],
        "users": sum(user["status"] == "ok" for user in manifest["users"]),
        "usd": manifest["usd"],
        "sha256": hashlib.sha256(storage.get(manifest_key(day))).hexdigest(),
        "manifest": f"{storage.address}/{manifest_key(day)}",
        "drift": warning,
    }


def manifest_key(day: date) -> str:
    """Return the key of what says that a day is whole."""
    return f"{CURATED}/dt={day}/_manifest.json"


def manifest_of(storage: Storage, day: date) -> dict[str, Any] | None:
    """Return a day's manifest, or None where the day is not published. Raises StorageRefused."""
    # S3 says "forbidden" of a missing object to a role that may list some prefixes alone: so look first.
    if manifest_key(day) not in storage.keys(f"{CURATED}/dt={day}/"):
        return None
    return json.loads(storage.get(manifest_key(day)))


def drift(storage: Storage, day: date) -> str | None:
    """Say where a day's rows are less than half or more than twice the median of the seven days before it."""
    rows = (manifest_of(storage, day) or {}).get("rows", 0)
    before = [manifest_of(storage, day - timedelta(days=ago)) for ago in range(1, DRIFT_DAYS + 1)]
    counts = [manifest["rows"] for manifest in before if manifest]
    if len(counts) < 3:
        return None
    median = statistics.median(counts)
    if median / 2 <= rows <= median * 2:
        return None
    return f"{rows} rows on {day}, where the days before have {median:.0f}"


if __name__ == "__main__":
    from etl.twitter_command import main

    main()
