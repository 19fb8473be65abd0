"""Serve the exchange rates until stopped; the control makes the API fail."""

from __future__ import annotations

import json
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import lab.shop
from lab import web
from lab.shop.seed import rates

HTML = b"<html><head><title>Sign in</title></head><body>Sign in to the network</body></html>"


class Handler(BaseHTTPRequestHandler):
    """Answers GET /rates/DAY?page=N, or as the control wants: `fault` is down, html or nothing."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        if self.server.fault == "down":
            return self._send(503, b"busy", "text/plain")
        if self.server.fault == "html":
            return self._send(200, HTML, "text/html")
        address = urlsplit(self.path)
        try:
            page = int(parse_qs(address.query).get("page", ["1"])[0])
            answer = rates(date.fromisoformat(address.path.removeprefix("/rates/")), page)
        except (ValueError, IndexError):
            return self._send(404, b"{}", "application/json")
        return self._send(200, json.dumps(answer).encode(), "application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        own = web.is_own(self.client_address[0]) and self.path == "/control"
        if own:
            self.server.fault = body["fault"]
        self._send(200 if own else 403, b"{}", "application/json")

    def log_message(self, *_: object) -> None:
        """Keep no log."""

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response_only(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """One API, with its current fault."""

    daemon_threads = True
    fault: str | None = None


arguments = web.parser("lab.shop", lab.shop.__doc__).parse_args()
web.serve(Server((arguments.address, arguments.port), Handler), arguments.certificate, arguments.key)
