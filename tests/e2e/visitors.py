"""Visitors from outside, and users on the host: what they try, and what they get."""

from __future__ import annotations

import re
import socket
import ssl
from typing import Any

from lab import services

ASK = """
from urllib.request import Request, urlopen
print(urlopen(Request("{}", method="{}", headers={{"X-aws-ec2-metadata-token-ttl-seconds": "60"}}), timeout=5).status)
"""
METADATA = ASK.format("http://169.254.169.254/latest/api/token", "PUT")
API = ASK.format("http://127.0.0.1:8080/api/v2/version", "GET")


def as_user(server, user: str, program: str) -> str:
    """What Python prints for a user of the host, or nothing where it fails."""
    return server.run(f"cd /; runuser -u {user} -- python3 - || true", stdin=program).strip()


def with_role(server, program: str) -> str:
    """What Airflow's Python prints on the host, told of the lab's addresses and holding the instance's role alone."""
    endpoints = {
        "AWS_ENDPOINT_URL": services.aws.endpoint(server.lab),
        "AWS_ENDPOINT_URL_S3": services.s3.endpoint(server.lab),
        "AWS_CA_BUNDLE": "/etc/ssl/certs/ca-certificates.crt",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    settings = " ".join(f"{name}={value}" for name, value in endpoints.items())
    return server.run(f"env -i {settings} /opt/airflow/venv/bin/python -", stdin=program)


def connect(server, *protocols: str) -> ssl.SSLSocket:
    """A TLS connection for raw bytes."""
    context = ssl.create_default_context(cafile=str(services.certificates.authority(server.lab)))
    context.set_alpn_protocols(list(protocols) or ["http/1.1"])
    return context.wrap_socket(socket.create_connection((server.address, 443)), server_hostname=server.address)


def say(server, request: bytes) -> int:
    """The status that answers a request as it is; 0 where the connection just ends."""
    with connect(server) as secure:
        secure.settimeout(30)
        secure.sendall(request)
        answer = secure.recv(4096).split(b" ")
    return int(answer[1]) if len(answer) > 1 else 0


def sign_in(server) -> Any:
    """A session of the login form, and the answer that began it."""
    web = server.session()
    form = web.get(f"{server.url}/auth/login/").text
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', form)[1]
    login = {"username": "admin", "password": server.password, "csrf_token": token}
    answer = web.post(f"{server.url}/auth/login/", data=login, headers={"Referer": server.url}, allow_redirects=False)
    assert {"session", "_token"} <= set(web.cookies.keys())
    return web, answer
