"""What the API answers: routes, fields, pages, limits, prices and refusals, without the network."""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

from lab.x_api.fields import (
    BARREN_FIELDS,
    BARREN_USER_FIELDS,
    DEFAULT_FIELDS,
    NEWER_NAMES,
    POST_FIELDS,
    USER_FIELDS,
    shown,
)
from lab.x_api.limits import LIMITS, Windows
from lab.x_api.oauth import Keys, credential
from lab.x_api.pages import Tokens, reachable
from lab.x_api.people import Person, stamp
from lab.x_api.query import wanted_fields, whole_number
from lab.x_api.refusals import PROBLEMS, REFUSALS, Refused, cap, credits, exhausted, gone_post, invalid, missing

POST_USD, USER_USD = 0.005, 0.010


@dataclass
class Fault:
    """A scripted fault for the `calls` (1 is the first) to a route from now on.

    `kind` is a name of REFUSALS, one of what the server does to the bytes (server.py), `short_page` with `size`,
    `same_token`, or `call`, which runs `action` first.
    """

    kind: str
    calls: list[int]
    route: str = "tweets"
    size: int = 0
    reset: str = "true"
    action: Callable[[], None] | None = None
    seen: int = 0


@dataclass
class Answer:
    """What goes over the wire; `fault` is what the server does to it."""

    status: int
    headers: dict[str, str]
    body: bytes
    fault: str = ""


@dataclass
class XApi:
    """One account with its people, clock, limits, faults, and its log of requests and charges.

    `dialect` is `both` (answers as asked), `tweet` or `post` (knows only that one), or `mixed` (accepts the newer
    names and counts retweets under the older). With `end_is_in` a post in the second `end_time` is included, as some
    of X's pages say.
    """

    keys: Keys
    people: list[Person]
    dialect: str = "both"
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    window_seconds: int = 900
    token_seconds: int = 3600
    end_is_in: bool = False
    limits: dict[tuple[str, str], int] = field(default_factory=lambda: dict(LIMITS))
    credits_usd: float = float("inf")
    cap_posts: int = 3_000_000
    faults: list[Fault] = field(default_factory=list)
    log: list[dict] = field(default_factory=list)
    charged: set[tuple] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._windows = Windows()
        self._nonces: set[str] = set()
        self._bought: Counter[str] = Counter()

    @property
    def usd(self) -> float:
        """What was charged: each post and user once in a UTC day."""
        return round(self._bought["post"] * POST_USD + self._bought["user"] * USER_USD, 3)

    def answer(self, address: str, target: str, headers: dict[str, str]) -> Answer:
        """Answer GET of `target` (path and query), sent to the base URL `address`."""
        url = urlsplit(target)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        now = self.clock()
        route = _route(url.path)
        who = credential(self.keys, headers, address, url.path, url.query, self._nonces)
        with self._lock:
            faults = self._due(route)
            sent, over = self._headers(who or "app", route, now)
        before = len(self.charged)
        try:
            for fault in faults:
                if fault.action:
                    fault.action()
                if fault.kind in REFUSALS:
                    refused = REFUSALS[fault.kind]()
                    if fault.kind.startswith("rate_limited"):
                        refused.headers |= exhausted(fault.reset, now)
                    raise refused
            if who is None:
                raise REFUSALS["unauthorized"]()
            if over:
                raise REFUSALS["rate_limited"]()
            status, body = 200, self._body(who, route, url.path, query, now, faults)
        except Refused as refused:
            status, body = refused.status, refused.body
            sent |= refused.headers
        entry = {"path": url.path, "query": query, "status": status, "by": who, "charged": len(self.charged) - before}
        self.log.append({"time": stamp(now), **entry, "usd": self.usd})
        wire = next((fault.kind for fault in faults if fault.kind not in REFUSALS), "")
        return Answer(status, {k: v for k, v in sent.items() if v}, json.dumps(body).encode(), wire)

    def _due(self, route: str) -> list[Fault]:
        due = []
        for fault in self.faults:
            if fault.route == route:
                fault.seen += 1
                if fault.seen in fault.calls:
                    due.append(fault)
        return due

    def _headers(self, who: str, route: str, now: datetime) -> tuple[dict[str, str], bool]:
        """Count a request; return its headers, and whether it is one too many."""
        counted, over = self._windows.count(who, route, now, self.limits, self.window_seconds)
        headers = {
            "content-type": "application/json; charset=utf-8",
            "date": f"{now:%a, %d %b %Y %H:%M:%S} GMT",
            "api-version": "2.167" if self.dialect == "post" else "2.166",
            "x-access-level": "read",
            "x-transaction-id": uuid.uuid4().hex[:16],
        }
        return headers | counted, over

    def _body(self, who: str, route: str, path: str, query: dict, now: datetime, faults: list[Fault]) -> dict:
        if route == "users":
            return self._users(query, path, now)
        if route == "tweets":
            return self._timeline(path.split("/")[3], query, now, faults)
        if route == "usage" and who == "app":
            used = str(self._bought["post"])
            usage = {"project_id": "1", "project_cap": str(self.cap_posts), "project_usage": used}
            return {"data": {**usage, "cap_reset_day": 1}}
        raise Refused(404, {"title": "Not Found", "type": "about:blank", "status": 404})

    def _charge(self, kind: str, ids: list[str], now: datetime) -> None:
        """Charge for what was read; refuse first if there is no money or the month is used up."""
        if self.usd >= self.credits_usd:
            raise credits()
        if kind == "post" and self._bought["post"] >= self.cap_posts:
            raise cap()
        fresh = {(f"{now:%Y-%m-%d}", kind, number) for number in ids} - self.charged
        self.charged |= fresh
        self._bought[kind] += len(fresh)

    def _dialect(self, query: dict[str, str]) -> str:
        newer = "post.fields" in query
        unknown = {"tweet": "post.fields", "post": "tweet.fields"}.get(self.dialect)
        if unknown in query:
            raise invalid(unknown, query[unknown], f"The query parameter [{unknown}] is not one of the known ones")
        return "post" if newer or self.dialect == "post" else "tweet"

    def _users(self, query: dict[str, str], path: str, now: datetime) -> dict:
        """GET /2/users/by, /2/users/by/username/:username and /2/users"""
        if path == "/2/users":
            parameter, pattern, values = "ids", r"[0-9]{1,19}", query.get("ids", "").split(",")
        elif path == "/2/users/by":
            parameter, pattern, values = "usernames", r"[A-Za-z0-9_]{1,15}", query.get("usernames", "").split(",")
        else:
            parameter, pattern, values = "username", r"[A-Za-z0-9_]{1,15}", [path.rsplit("/", 1)[1]]
        for value in values:
            if len(values) > 100 or not re.fullmatch(pattern, value):
                raise invalid(
                    parameter, value, f"`{parameter}` takes 1 to 100 values that match ^{pattern}$, not [{value}]"
                )
        asked = wanted_fields(query, "user.fields", {"id", "name", "username"}, USER_FIELDS | BARREN_USER_FIELDS)
        dialect = "post" if self.dialect == "post" else "tweet"
        found, errors = [], []
        for value in values:
            person = next((one for one in self.people if value.lower() in {one.id, one.username.lower()}), None)
            if person and person.status != "suspended":
                found.append({key: field for key, field in self._user(person).items() if key in asked})
            elif person:
                errors.append(missing(parameter, value, "Forbidden", f"User has been suspended: [{value}].", dialect))
            else:
                detail = f"Could not find user with {parameter}: [{value}]."
                errors.append(missing(parameter, value, "Not Found Error", detail, dialect))
        self._charge("user", [user["id"] for user in found], now)
        data = (found[0] if found else None) if parameter == "username" else found
        return {key: value for key, value in {"data": data, "errors": errors}.items() if value}

    def _user(self, person: Person) -> dict[str, object]:
        # A request for users does not say which dialect it wants.
        counts = {"tweet_count": "post", "post_count": "tweet"}
        written = person.posts_per_day * 365 + len(person.written)
        return {
            "id": person.id,
            "name": person.username.replace("_", " ").title(),
            "username": person.username,
            "created_at": "2020-01-01T00:00:00.000Z",
            "protected": person.status == "protected",
            "verified": False,
            "public_metrics": {
                "followers_count": 1,
                "following_count": 1,
                "listed_count": 0,
                "like_count": 0,
                **{name: written for name, without in counts.items() if self.dialect != without},
            },
        }

    def _timeline(self, number: str, query: dict[str, str], now: datetime, faults: list[Fault]) -> dict:
        """GET /2/users/:id/tweets, newest first"""
        dialect = self._dialect(query)
        newer = NEWER_NAMES if dialect == "post" else {}
        person = next((one for one in self.people if one.id == number), None)
        if person is None or person.status == "suspended":
            detail = f"Could not find user with id: [{number}]."
            return {"errors": [missing("id", number, "Not Found Error", detail, dialect)]}
        if person.status == "protected":
            detail = f"Sorry, you are not authorized to see the user with id: [{number}]."
            error = missing("id", number, "Authorization Error", detail, dialect)
            return {"errors": [{**error, "type": f"{PROBLEMS[dialect]}/not-authorized-for-resource"}]}
        known = {newer.get(name, name) for name in POST_FIELDS | BARREN_FIELDS | {"referenced_tweets"}}
        known -= {"referenced_posts", "author_id"} if dialect == "post" else set()
        asked = wanted_fields(query, f"{dialect}.fields", {newer.get(name, name) for name in DEFAULT_FIELDS}, known)
        expansions = set(filter(None, query.get("expansions", "").split(",")))
        expands = bool(expansions & {"referenced_tweets.id", "referenced_posts"})
        if dialect == "post":
            asked |= expansions & {"referenced_posts", "author_id"}
        limit = whole_number(query, "max_results", 10, 5, 100)
        tokens = Tokens(self.keys.bearer_token, self.token_seconds)
        first = tokens.offset(number, query, now)
        kept = reachable(person, query, now, self.end_is_in)
        fault = next((one for one in faults if one.kind in {"short_page", "same_token"}), None)
        size = fault.size if fault and fault.kind == "short_page" else limit
        page = kept[first : first + size]
        included = [p["referenced"] for p in page if expands and "referenced" in p]
        gone = [number for p in page if expands for number in p.get("gone", [])]
        self._charge("post", [post["id"] for post in [*page, *included]], now)
        meta: dict[str, object] = {"result_count": len(page)}
        if page:
            meta |= {"newest_id": page[0]["id"], "oldest_id": page[-1]["id"]}
        if fault and fault.kind == "same_token" and "pagination_token" in query:
            meta["next_token"] = query["pagination_token"]
        elif first + size < len(kept):
            meta["next_token"] = tokens.make(first + size, number, query, now)
        if first:
            meta["previous_token"] = tokens.make(max(first - limit, 0), number, query, now)
        body: dict[str, object] = {}
        if page:
            body["data"] = [shown(post, asked, newer, self.dialect) for post in page]
        if included:
            body["includes"] = {f"{dialect}s": [shown(post, asked, newer, self.dialect) for post in included]}
        if gone:
            body["errors"] = [gone_post(number, dialect) for number in gone]
        return {**body, "meta": meta}


def _route(path: str) -> str:
    if path in {"/2/users", "/2/users/by"} or re.fullmatch(r"/2/users/by/username/[^/]+", path):
        return "users"
    if re.fullmatch(r"/2/users/\d+/tweets", path):
        return "tweets"
    return "usage" if path == "/2/usage/tweets" else "unknown"
