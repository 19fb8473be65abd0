"""What the lab's own web servers share: their command line, TLS, and who may control them."""

from __future__ import annotations

import argparse
import contextlib
import socket
import ssl
from http.server import ThreadingHTTPServer


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return the command line of `python -m module`, which services.py begins it with."""
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    made.add_argument("--address", required=True)
    made.add_argument("--port", type=int, required=True)
    made.add_argument("--certificate", required=True)
    made.add_argument("--key", required=True)
    return made


def serve(server: ThreadingHTTPServer, certificate: str, key: str) -> None:
    """Speak TLS until stopped. Each connection has its own thread for the handshake: a silent client blocks no one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


def is_own(address: str) -> bool:
    """Whether an address is this machine's: instances must not control what tests them."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind((address, 0))
        return True
    return False
