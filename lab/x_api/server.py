"""The API on a socket: bytes, the faults of a network, and the control endpoint for tests."""

from __future__ import annotations

import json
import socket
import struct
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from lab.web import is_own
from lab.x_api.api import Answer, Fault, Keys, XApi
from lab.x_api.people import Person, lab_people

STALL_SECONDS = 120
HTML = b"<html><head><title>503</title></head><body>Over capacity</body></html>"
# What the control may set.
SETTINGS = {"dialect", "credits_usd", "cap_posts", "token_seconds", "window_seconds", "end_is_in"}


class Handler(BaseHTTPRequestHandler):
    """Sends what the server's XApi answers."""

    protocol_version = "HTTP/1.1"
    # Head and body are two writes: the second must not wait for the first one's acknowledgement.
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        if self.path == "/control":
            return self._control(lambda: {"usd": self.server.api.usd, "log": self.server.api.log})
        answer = self.server.api.answer(self.server.address, self.path, dict(self.headers))
        if self.server.seconds:
            time.sleep(self.server.seconds)
        self._send(answer)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._control(lambda: self.server.change(body))

    def log_message(self, *_: object) -> None:
        """Keep no log of its own: the account has one."""

    def _control(self, work) -> None:
        own = is_own(self.client_address[0])
        body = json.dumps(work() if own and urlsplit(self.path).path == "/control" else {}).encode()
        self._send(Answer(200 if own else 403, {"content-type": "application/json"}, body))

    def _send(self, answer: Answer) -> None:
        body, length = answer.body, len(answer.body)
        if answer.fault == "html":
            answer.status, answer.headers["content-type"], body = 503, "text/html", HTML
            length = len(body)
        elif answer.fault == "cut_json":
            body = body[: length // 2]
            length = len(body)
        elif answer.fault == "short_body":
            body = body[: length // 2]
        elif answer.fault == "list":
            answer.status, body = 500, b'["unexpected"]'
            length = len(body)
        elif answer.fault == "stall":
            time.sleep(STALL_SECONDS)
        if answer.fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        for name, value in {**answer.headers, "content-length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            if answer.fault == "drip":
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.2)
            self.wfile.write(body if answer.fault != "drip" else b"")
        except OSError:
            self.close_connection = True
        if answer.fault in {"short_body", "stall"}:
            self.close_connection = True


class Server(ThreadingHTTPServer):
    """One stand-in; `seconds` is how long it thinks about each answer."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, api: XApi, address: str = "127.0.0.1", port: int = 0, seconds: float = 0) -> None:
        super().__init__((address, port), Handler)
        self.api, self.seconds = api, seconds
        self.address = f"http://{address}:{self.server_port}"

    def change(self, wanted: dict) -> dict:
        """Set what the control asks for; `reset` begins anew."""
        if wanted.get("reset"):
            self.api = XApi(self.api.keys, lab_people())
        if "people" in wanted:
            self.api.people = [*lab_people(), *(Person(**person) for person in wanted["people"])]
        if "faults" in wanted:
            self.api.faults = [Fault(**fault) for fault in wanted["faults"]]
        if "limits" in wanted:
            self.api.limits |= {("app", route): limit for route, limit in wanted["limits"].items()}
        if "ahead_seconds" in wanted:
            ahead = timedelta(seconds=wanted["ahead_seconds"])
            self.api.clock = lambda: datetime.now(UTC) + ahead
        for name in SETTINGS & set(wanted):
            setattr(self.api, name, wanted[name])
        return {"usd": self.api.usd}

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that hang up: tests do so on purpose."""


def lab_api(bearer_token: str) -> XApi:
    """The account of the lab."""
    return XApi(Keys(bearer_token), lab_people())
