"""A stand-in for the X API v2: user look-up and timelines of invented people.

Answers have the shapes, limits and errors of the real API; posts are a pure function of user
and day, so that two runs over one window see the same posts.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import ssl
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from lab.settings import USERNAMES

EPOCH_MS = 1_288_834_974_657
POSTS_PER_DAY = 7
WINDOW_DAYS = 30
PROBLEM = "https://api.twitter.com/2/problems"
NOUNS = ["runway", "tower", "hangar", "windsock", "glider", "radar", "apron", "flight plan"]
VERBS = ["shines", "waits", "hums", "sleeps", "spins", "lands", "taxis", "climbs"]
# The text that breaks careless pipelines: quotes, commas, line breaks, entities, emoji.
ENDS = [".", ', "as planned".', "\nSecond line.", " &amp; more.", " \U0001f6e9\ufe0f!", " = 1 + 1", "…"]


def user_id(username: str) -> str:
    return str(1000 + USERNAMES.index(username))


def posts(username: str, day: datetime) -> list[dict]:
    """The user's posts of one UTC day, oldest first."""
    rng = random.Random(f"{username} {day:%Y-%m-%d}")
    seconds = sorted(rng.sample(range(86_400), POSTS_PER_DAY))
    found = []
    for second in seconds:
        created = day + timedelta(seconds=second)
        snowflake = (int(created.timestamp() * 1000) - EPOCH_MS) << 22 | int(user_id(username))
        found.append(
            {
                "id": str(snowflake),
                "text": f"The {rng.choice(NOUNS)} {rng.choice(VERBS)}{rng.choice(ENDS)}",
                "edit_history_tweet_ids": [str(snowflake)],
                "created_at": created.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                "author_id": user_id(username),
                "lang": "en",
                "public_metrics": {
                    "retweet_count": rng.randrange(50),
                    "reply_count": rng.randrange(9),
                    "like_count": rng.randrange(500),
                    "quote_count": rng.randrange(5),
                    "bookmark_count": rng.randrange(5),
                    "impression_count": rng.randrange(9000),
                },
            }
        )
    return found


class Refused(Exception):
    """An answer that is an error of the whole request."""

    def __init__(self, status: int, body: dict) -> None:
        super().__init__(status)
        self.status, self.body = status, body


def _invalid(parameter: str, value: str, message: str) -> Refused:
    return Refused(
        400,
        {
            "errors": [{"parameters": {parameter: [value]}, "message": message}],
            "title": "Invalid Request",
            "detail": "One or more parameters to your request was invalid.",
            "type": f"{PROBLEM}/invalid-request",
        },
    )


def users_by(query: dict[str, str]) -> dict:
    """GET /2/users/by"""
    usernames = query.get("usernames", "").split(",")
    found, errors = [], []
    for username in usernames:
        if not re.fullmatch(r"[A-Za-z0-9_]{1,15}", username):
            raise _invalid(
                "usernames",
                username,
                f"The `usernames` query parameter value [{username}] does not match ^[A-Za-z0-9_]{{1,15}}$",
            )
        if username.lower() in USERNAMES:
            name = username.lower()
            found.append({"id": user_id(name), "name": name.replace("_", " ").title(), "username": name})
        else:
            errors.append(
                {
                    "value": username,
                    "detail": f"Could not find user with usernames: [{username}].",
                    "title": "Not Found Error",
                    "resource_type": "user",
                    "parameter": "usernames",
                    "resource_id": username,
                    "type": f"{PROBLEM}/resource-not-found",
                }
            )
    return {key: value for key, value in {"data": found, "errors": errors}.items() if value}


def timeline(number: str, query: dict[str, str], now: datetime) -> dict:
    """GET /2/users/:id/tweets, newest first"""
    username = next((name for name in USERNAMES if user_id(name) == number), None)
    if username is None:
        raise Refused(
            404,
            {
                "title": "Not Found Error",
                "detail": f"Could not find user with id: [{number}].",
                "type": f"{PROBLEM}/resource-not-found",
                "status": 404,
            },
        )
    limit = query.get("max_results", "10")
    if not limit.isdigit() or not 5 <= int(limit) <= 100:
        raise _invalid(
            "max_results", limit, f"The `max_results` query parameter value [{limit}] is not between 5 and 100"
        )
    start = _time(query, "start_time", now - timedelta(days=WINDOW_DAYS))
    end = min(_time(query, "end_time", now), now)
    day, found = start.replace(hour=0, minute=0, second=0, microsecond=0), []
    while day < end:
        found += posts(username, day)
        day += timedelta(days=1)
    found = [p for p in found if f"{start:%Y-%m-%dT%H:%M:%S}" <= p["created_at"] < f"{end:%Y-%m-%dT%H:%M:%S}"]
    found.reverse()
    token = query.get("pagination_token", "p0")
    if not re.fullmatch(r"p\d+", token):
        raise _invalid("pagination_token", token, f"The `pagination_token` [{token}] is not valid")
    first = int(token[1:])
    page = found[first : first + int(limit)]
    asked = {"id", "text", "edit_history_tweet_ids", *query.get("tweet.fields", "").split(",")}
    meta: dict[str, object] = {"result_count": len(page)}
    if page:
        meta |= {"newest_id": page[0]["id"], "oldest_id": page[-1]["id"]}
    if first + int(limit) < len(found):
        meta["next_token"] = f"p{first + int(limit)}"
    data = [{key: value for key, value in post.items() if key in asked} for post in page]
    return {"data": data, "meta": meta} if data else {"meta": meta}


def _time(query: dict[str, str], name: str, default: datetime) -> datetime:
    text = query.get(name)
    if text is None:
        return default
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise _invalid(name, text, f"The `{name}` query parameter value [{text}] is not a valid date") from None


class Handler(BaseHTTPRequestHandler):
    """Routes, the bearer check and the rate limit headers."""

    protocol_version = "HTTP/1.1"
    token = ""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        try:
            if self.headers.get("Authorization") != f"Bearer {self.token}":
                raise Refused(
                    401, {"title": "Unauthorized", "type": "about:blank", "status": 401, "detail": "Unauthorized"}
                )
            if url.path == "/2/users/by":
                body = users_by(query)
            elif match := re.fullmatch(r"/2/users/(\d+)/tweets", url.path):
                body = timeline(match[1], query, datetime.now(UTC))
            else:
                raise Refused(404, {"title": "Not Found", "type": "about:blank", "status": 404})
            self._answer(200, body)
        except Refused as refused:
            self._answer(refused.status, refused.body)

    def _answer(self, status: int, body: dict) -> None:
        content = json.dumps(body).encode()
        reset = (int(datetime.now(UTC).timestamp()) // 900 + 1) * 900
        self.send_response(status)
        self.send_header("content-type", "application/json; charset=utf-8")
        self.send_header("content-length", str(len(content)))
        self.send_header("x-rate-limit-limit", "300")
        self.send_header("x-rate-limit-remaining", "299")
        self.send_header("x-rate-limit-reset", str(reset))
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--token-file", type=Path, required=True)
    arguments = parser.parse_args()
    Handler.token = arguments.token_file.read_text()
    server = ThreadingHTTPServer((arguments.address, arguments.port), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(arguments.certificate, arguments.key)
    # The handshake is done in the connection's own thread, so that a silent client stops nobody.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main()
