"""What the API answers: routes, fields, pages, limits, prices and refusals, without the network."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

from lab.x_api.oauth import Keys, credential
from lab.x_api.people import FIRST_DAY, Person, stamp

OLDEST_TIME = datetime(2010, 11, 6, tzinfo=UTC)
NEWEST_POSTS, NEWEST_WITHOUT_REPLIES = 3200, 800
POST_USD, USER_USD = 0.005, 0.010
PROBLEMS = {"tweet": "https://api.twitter.com/2/problems", "post": "https://api.x.com/2/problems"}
NEWER_NAMES = {
    "note_tweet": "note_post",
    "edit_history_tweet_ids": "edit_history_post_ids",
    "referenced_tweets": "referenced_posts",
    "retweet_count": "repost_count",
}
DEFAULT_FIELDS = {"id", "text", "edit_history_tweet_ids"}
POST_FIELDS = DEFAULT_FIELDS | {"created_at", "author_id", "conversation_id", "lang", "public_metrics", "note_tweet"}
# Known to the real API, and never filled here.
BARREN_FIELDS = {
    *["article", "attachments", "context_annotations", "display_text_range", "edit_controls", "entities", "geo"],
    *["in_reply_to_user_id", "media_metadata", "possibly_sensitive", "reply_settings", "source", "withheld"],
    *["card_uri", "community_id", "scopes"],
}
USER_FIELDS = {"id", "name", "username", "created_at", "protected", "public_metrics", "description", "verified"}
BARREN_USER_FIELDS = {
    *["affiliation", "connection_status", "entities", "is_identity_verified", "location", "parody"],
    *["most_recent_post_id", "most_recent_tweet_id", "pinned_post_id", "pinned_tweet_id", "profile_banner_url"],
    *["profile_image_url", "receives_your_dm", "subscription", "subscription_type", "url", "verified_followers_count"],
    *["verified_type", "withheld"],
}
# Requests a window, by credential and route.
LIMITS = {
    ("app", "users"): 300,
    ("user", "users"): 900,
    ("app", "tweets"): 10_000,
    ("user", "tweets"): 900,
    ("app", "usage"): 50,
}


class Refused(Exception):
    """An answer that is an error of the whole request."""

    def __init__(self, status: int, body: dict, headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers or {}


@dataclass
class Fault:
    """A scripted fault: what befalls the `calls` (1 is the first) to a route from now on.

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


def _refusal(code: int, **body: object) -> Callable[[XApi], Refused]:
    return lambda api: Refused(code, dict(body))


def _cap(api: XApi) -> Refused:
    body = {
        "account_id": 1,
        "product_name": "standard-basic",
        "title": "UsageCapExceeded",
        "period": "Monthly",
        "scope": "Product",
        "detail": "Usage cap exceeded: Monthly product cap",
        "type": f"{PROBLEMS['tweet']}/usage-capped",
    }
    return Refused(429, body, {"x-rate-limit-remaining": "39999"})


def _client_forbidden(api: XApi) -> Refused:
    body = {
        "client_id": "1",
        "detail": "When authenticating requests to the Twitter API v2 endpoints, you must use keys and tokens from a "
        "Twitter developer App that is attached to a Project. You can create a project via the developer portal.",
        "registration_url": "https://developer.twitter.com/en/docs/projects/overview",
        "title": "Client Forbidden",
        "required_enrollment": "Appropriate Level of API Access",
        "reason": "client-not-enrolled",
        "type": f"{PROBLEMS['tweet']}/client-forbidden",
    }
    return Refused(403, body)


def _credits(api: XApi) -> Refused:
    body = {
        "title": "CreditsDepleted",
        "detail": "Your enrolled account [1] does not have any credits to fulfill this request.",
        "type": f"{PROBLEMS['tweet']}/credits",
        "account_id": 1,
    }
    return Refused(402, body)


TOO_MANY = {"title": "Too Many Requests", "detail": "Too Many Requests", "type": "about:blank", "status": 429}
REFUSALS: dict[str, Callable[[XApi], Refused]] = {
    "rate_limited": _refusal(429, **TOO_MANY),
    "rate_limited_88": _refusal(429, errors=[{"code": 88, "message": "Rate limit exceeded"}]),
    "rate_limited_day": lambda api: Refused(429, dict(TOO_MANY), {"x-app-limit-24hour-remaining": "0"}),
    "usage_capped": _cap,
    "credits_depleted": _credits,
    "unauthorized": _refusal(401, title="Unauthorized", type="about:blank", status=401, detail="Unauthorized"),
    "client_forbidden": _client_forbidden,
    "over_capacity": _refusal(503, errors=[{"message": "Over capacity", "code": 130}]),
    "unavailable": _refusal(503, title="Service Unavailable", type="about:blank", status=503),
    "server_error": _refusal(500, title="Internal Server Error", type="about:blank", status=500),
}


@dataclass
class XApi:
    """One account with its people, clock, limits, faults, and the log of what it was asked and charged.

    `dialect` is `both` (answers as it was asked), `tweet` or `post` (knows one alone), or `mixed` (takes the newer
    names and counts retweets under the older).
    """

    keys: Keys
    people: list[Person]
    dialect: str = "both"
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    window_seconds: int = 900
    token_seconds: int = 3600
    limits: dict[tuple[str, str], int] = field(default_factory=lambda: dict(LIMITS))
    credits_usd: float = float("inf")
    cap_posts: int = 3_000_000
    faults: list[Fault] = field(default_factory=list)
    log: list[dict] = field(default_factory=list)
    charged: set[tuple] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, str, int], tuple[int, int]] = {}
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
                    refused = REFUSALS[fault.kind](self)
                    if fault.kind.startswith("rate_limited"):
                        refused.headers |= _exhausted(fault.reset, now)
                    raise refused
            if who is None:
                raise REFUSALS["unauthorized"](self)
            if over:
                raise REFUSALS["rate_limited"](self)
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
        over = False
        headers = {
            "content-type": "application/json; charset=utf-8",
            "date": f"{now:%a, %d %b %Y %H:%M:%S} GMT",
            "api-version": "2.167" if self.dialect == "post" else "2.166",
            "x-access-level": "read",
            "x-transaction-id": uuid.uuid4().hex[:16],
        }
        limit = self.limits.get((who, route), 300)
        for prefix, most, seconds in [
            ("x-rate-limit", limit, self.window_seconds),
            (f"x-{who}-limit-24hour", limit * 96, 86_400),
        ]:
            begun, used = self._windows.get((who, route, seconds), (0, 0))
            if now.timestamp() >= begun + seconds:
                begun, used = int(now.timestamp()), 0
            self._windows[who, route, seconds] = (begun, used + 1)
            headers |= {
                f"{prefix}-limit": str(most),
                f"{prefix}-remaining": str(max(most - used - 1, 0)),
                f"{prefix}-reset": str(begun + seconds),
            }
            over = over or used >= most
        return headers, over

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
        """Charge what was read; refuse before if there is no money or the month is used up."""
        if self.usd >= self.credits_usd:
            raise _credits(self)
        if kind == "post" and self._bought["post"] >= self.cap_posts:
            raise _cap(self)
        fresh = {(f"{now:%Y-%m-%d}", kind, number) for number in ids} - self.charged
        self.charged |= fresh
        self._bought[kind] += len(fresh)

    def _dialect(self, query: dict[str, str]) -> str:
        newer = "post.fields" in query
        unknown = {"tweet": "post.fields", "post": "tweet.fields"}.get(self.dialect)
        if unknown in query:
            raise _invalid(unknown, query[unknown], f"The query parameter [{unknown}] is not one of the known ones")
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
                raise _invalid(
                    parameter, value, f"`{parameter}` takes 1 to 100 values that match ^{pattern}$, not [{value}]"
                )
        asked = _asked(query, "user.fields", {"id", "name", "username"}, USER_FIELDS | BARREN_USER_FIELDS)
        found, errors = [], []
        for value in values:
            person = next((one for one in self.people if value.lower() in {one.id, one.username.lower()}), None)
            if person and person.status != "suspended":
                found.append({key: field for key, field in self._user(person).items() if key in asked})
            elif person:
                errors.append(_missing(parameter, value, "Forbidden", f"User has been suspended: [{value}]."))
            else:
                detail = f"Could not find user with {parameter}: [{value}]."
                errors.append(_missing(parameter, value, "Not Found Error", detail))
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
            return {"errors": [_missing("id", number, "Not Found Error", detail)]}
        if person.status == "protected":
            detail = f"Sorry, you are not authorized to see the user with id: [{number}]."
            error = _missing("id", number, "Authorization Error", detail)
            return {"errors": [{**error, "type": f"{PROBLEMS[dialect]}/not-authorized-for-resource"}]}
        known = {newer.get(name, name) for name in POST_FIELDS | BARREN_FIELDS | {"referenced_tweets"}}
        known -= {"referenced_posts", "author_id"} if dialect == "post" else set()
        asked = _asked(query, f"{dialect}.fields", {newer.get(name, name) for name in DEFAULT_FIELDS}, known)
        expansions = set(filter(None, query.get("expansions", "").split(",")))
        expands = bool(expansions & {"referenced_tweets.id", "referenced_posts"})
        if dialect == "post":
            asked |= expansions & {"referenced_posts", "author_id"}
        limit = _number(query, "max_results", 10, 5, 100)
        first = self._offset(path=number, query=query, now=now)
        kept = self._window(person, query, now)
        fault = next((one for one in faults if one.kind in {"short_page", "same_token"}), None)
        size = fault.size if fault and fault.kind == "short_page" else limit
        page = kept[first : first + size]
        included = [p["referenced"] for p in page if expands and "referenced" in p]
        self._charge("post", [post["id"] for post in [*page, *included]], now)
        meta: dict[str, object] = {"result_count": len(page)}
        if page:
            meta |= {"newest_id": page[0]["id"], "oldest_id": page[-1]["id"]}
        if fault and fault.kind == "same_token" and "pagination_token" in query:
            meta["next_token"] = query["pagination_token"]
        elif first + size < len(kept):
            meta["next_token"] = self._token(first + size, number, query, now)
        if first:
            meta["previous_token"] = self._token(max(first - limit, 0), number, query, now)
        body: dict[str, object] = {}
        if page:
            body["data"] = [_shown(post, asked, newer, self.dialect) for post in page]
        if included:
            body["includes"] = {f"{dialect}s": [_shown(post, asked, newer, self.dialect) for post in included]}
        return {**body, "meta": meta}

    def _window(self, person: Person, query: dict[str, str], now: datetime) -> list[dict]:
        """The posts that a query can reach. Ids are exclusive, and win over times."""
        start, end = _time(query, "start_time", now), _time(query, "end_time", now)
        if start and end and start >= end:
            raise _invalid("start_time", query["start_time"], "'start_time' must be before 'end_time'")
        excluded = set(filter(None, query.get("exclude", "").split(",")))
        if excluded - {"replies", "retweets"}:
            raise _invalid("exclude", query["exclude"], "The `exclude` query parameter values are retweets and replies")
        most = NEWEST_WITHOUT_REPLIES if "replies" in excluded else NEWEST_POSTS
        since, until = (_number(query, name, None, 0, 2**63) for name in ("since_id", "until_id"))
        begin = FIRST_DAY if since is not None else max(start or FIRST_DAY, FIRST_DAY)
        newest = person.posts(begin, now, most)
        stop = "9999" if end is None or until is not None else stamp(end)
        return [
            post
            for post in newest
            if post["created_at"] < stop
            and (since is None or int(post["id"]) > since)
            and (until is None or int(post["id"]) < until)
            and not ("replies" in excluded and post.get("reply"))
            and not ("retweets" in excluded and "referenced" in post)
        ]

    # A token holds the place in the list and the query that it belongs to, signed.
    def _token(self, offset: int, path: str, query: dict[str, str], now: datetime) -> str:
        text = f"{offset}.{int(now.timestamp())}"
        return base64.urlsafe_b64encode(f"{text}.{self._sign(text, path, query)}".encode()).decode().rstrip("=")

    def _offset(self, path: str, query: dict[str, str], now: datetime) -> int:
        token = query.get("pagination_token")
        if token is None:
            return 0
        try:
            offset, issued, signed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode().split(".")
            good = hmac.compare_digest(signed, self._sign(f"{offset}.{issued}", path, query))
        except ValueError:
            good = False
        if not good or now.timestamp() > int(issued) + self.token_seconds:
            raise _invalid(
                "pagination_token", token, f"The `pagination_token` query parameter value [{token}] is not valid"
            )
        return int(offset)

    def _sign(self, text: str, path: str, query: dict[str, str]) -> str:
        rest = sorted((name, value) for name, value in query.items() if name not in {"pagination_token", "max_results"})
        message = json.dumps([text, path, rest]).encode()
        return hmac.new(self.keys.bearer_token.encode(), message, hashlib.sha256).hexdigest()[:20]


def _route(path: str) -> str:
    if path in {"/2/users", "/2/users/by"} or re.fullmatch(r"/2/users/by/username/[^/]+", path):
        return "users"
    if re.fullmatch(r"/2/users/\d+/tweets", path):
        return "tweets"
    return "usage" if path == "/2/usage/tweets" else "unknown"


def _exhausted(reset: str, now: datetime) -> dict[str, str]:
    """The headers of a scripted rate limit: `true`, `missing`, or a number of seconds from now."""
    headers = {"x-rate-limit-remaining": "0"}
    if reset == "missing":
        return {**headers, "x-rate-limit-reset": ""}
    return headers if reset == "true" else {**headers, "x-rate-limit-reset": str(int(now.timestamp()) + int(reset))}


def _invalid(parameter: str, value: str, message: str) -> Refused:
    body = {
        "errors": [{"parameters": {parameter: [value]}, "message": message}],
        "title": "Invalid Request",
        "detail": "One or more parameters to your request was invalid.",
        "type": f"{PROBLEMS['tweet']}/invalid-request",
    }
    return Refused(400, body)


def _missing(parameter: str, value: str, title: str, detail: str) -> dict[str, str]:
    """An error of one resource in an answer of status 200."""
    return {
        "value": value,
        "detail": detail,
        "title": title,
        "resource_type": "user",
        "parameter": parameter,
        "resource_id": value,
        "type": f"{PROBLEMS['tweet']}/resource-not-found",
    }


def _asked(query: dict[str, str], parameter: str, default: set[str], known: set[str]) -> set[str]:
    asked = set(filter(None, query.get(parameter, "").split(",")))
    if asked - known:
        wrong = sorted(asked - known)
        raise _invalid(
            parameter,
            query[parameter],
            f"The `{parameter}` query parameter value {wrong} is not one of {sorted(known)}",
        )
    return default | asked


def _number(query: dict[str, str], name: str, default: int | None, least: int, most: int) -> int | None:
    text = query.get(name)
    if text is None:
        return default
    if not text.isdigit() or not least <= int(text) <= most:
        raise _invalid(name, text, f"The `{name}` query parameter value [{text}] is not between {least} and {most}")
    return int(text)


def _time(query: dict[str, str], name: str, now: datetime) -> datetime | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if not found or not found.tzinfo or found.microsecond:
        raise _invalid(name, text, f"The `{name}` query parameter value [{text}] is not a valid date")
    if found < OLDEST_TIME or found > now - timedelta(seconds=10):
        raise _invalid(
            name, text, f"Invalid '{name}':'{text}'. '{name}' must be on or after 2010-11-06 and 10 seconds before now"
        )
    return found


def _shown(post: dict, asked: set[str], newer: dict[str, str], dialect: str) -> dict:
    """The asked fields of a post under the names of a dialect; what is empty is left out."""
    shown = {newer.get(name, name): value for name, value in post.items() if newer.get(name, name) in asked}
    if newer and dialect != "mixed" and "public_metrics" in shown:
        shown["public_metrics"] = {newer.get(name, name): value for name, value in shown["public_metrics"].items()}
    return {name: value for name, value in shown.items() if value not in (None, "", [], {})}
