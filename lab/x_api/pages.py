"""The pages of a timeline: which posts a query can reach, and the tokens that lead from one page to the next."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from lab.x_api.people import FIRST_DAY, Person, stamp
from lab.x_api.query import moment, whole_number
from lab.x_api.refusals import invalid

NEWEST_POSTS, NEWEST_WITHOUT_REPLIES = 3200, 800


def reachable(person: Person, query: dict[str, str], now: datetime, end_is_in: bool = False) -> list[dict]:
    """The posts that a query can reach. Ids are exclusive, and win over times."""
    start, end = moment(query, "start_time", now), moment(query, "end_time", now)
    if start and end and start >= end:
        raise invalid("start_time", query["start_time"], "'start_time' must be before 'end_time'")
    excluded = set(filter(None, query.get("exclude", "").split(",")))
    if excluded - {"replies", "retweets"}:
        raise invalid("exclude", query["exclude"], "The `exclude` query parameter values are retweets and replies")
    most = NEWEST_WITHOUT_REPLIES if "replies" in excluded else NEWEST_POSTS
    since, until = (whole_number(query, name, None, 0, 2**63) for name in ("since_id", "until_id"))
    begin = FIRST_DAY if since is not None else max(start or FIRST_DAY, FIRST_DAY)
    newest = person.posts(begin, now, most)
    stop = "9999" if end is None or until is not None else stamp(end + timedelta(seconds=end_is_in))
    return [
        post
        for post in newest
        if post["created_at"] < stop
        and (since is None or int(post["id"]) > since)
        and (until is None or int(post["id"]) < until)
        and not ("replies" in excluded and post.get("reply"))
        and not ("retweets" in excluded and "referenced" in post)
    ]


@dataclass
class Tokens:
    """A token holds its place in the list and its query, signed; it expires after some seconds."""

    key: str
    seconds: int

    def make(self, offset: int, path: str, query: dict[str, str], now: datetime) -> str:
        """Return the token of the page that begins there."""
        text = f"{offset}.{int(now.timestamp())}"
        return base64.urlsafe_b64encode(f"{text}.{self._sign(text, path, query)}".encode()).decode().rstrip("=")

    def offset(self, path: str, query: dict[str, str], now: datetime) -> int:
        """Return where the asked page begins."""
        token = query.get("pagination_token")
        if token is None:
            return 0
        try:
            offset, issued, signed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode().split(".")
            good = hmac.compare_digest(signed, self._sign(f"{offset}.{issued}", path, query))
        except ValueError:
            good = False
        if not good or now.timestamp() > int(issued) + self.seconds:
            raise invalid(
                "pagination_token", token, f"The `pagination_token` query parameter value [{token}] is not valid"
            )
        return int(offset)

    def _sign(self, text: str, path: str, query: dict[str, str]) -> str:
        rest = sorted((name, value) for name, value in query.items() if name not in {"pagination_token", "max_results"})
        message = json.dumps([text, path, rest]).encode()
        return hmac.new(self.key.encode(), message, hashlib.sha256).hexdigest()[:20]
