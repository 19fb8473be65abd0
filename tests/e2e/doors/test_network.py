"""What answers from outside, and how: ports, TLS, headers, requests that are none, guesses."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import subprocess

import pytest
import requests

from tests.e2e.visitors import connect, say
from tests.server import wait_until

HEADERS = {"Strict-Transport-Security", "Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options"}


@pytest.mark.door(1)
@pytest.mark.usefixtures("open_security_group")
def test_from_outside_only_three_ports_answer(server):
    async def is_open(port: int, limit: asyncio.Semaphore) -> bool:
        async with limit:
            try:
                _, writer = await asyncio.wait_for(asyncio.open_connection(server.address, port), 3)
            except (OSError, TimeoutError):
                return False
            writer.close()
            return True

    async def scan() -> list[int]:
        limit = asyncio.Semaphore(500)
        found = await asyncio.gather(*(is_open(port, limit) for port in range(1, 65536)))
        return [port for port, answer in enumerate(found, start=1) if answer]

    assert asyncio.run(scan()) == [22, 80, 443]


@pytest.mark.door(2)
def test_internal_ports_listen_on_loopback_only(server):
    def listening(sockets: str) -> set[str]:
        places = {
            line.split()[3] for line in server.run(f"ss --no-header --listening --numeric {sockets}").splitlines()
        }
        return {place.rpartition(":")[2] for place in places if not place.startswith(("127.", "[::1]"))}

    assert listening("--tcp") == {"22", "80", "443"}
    # The DHCP client.
    assert listening("--udp") <= {"68", "546"}


@pytest.mark.door(3)
def test_without_tls_there_is_a_redirect_and_nothing_else(server):
    for headers in ({}, {"Host": "evil.example"}):
        plain = requests.get(f"http://{server.address}/dags", headers=headers, allow_redirects=False, timeout=30)
        assert (plain.status_code, plain.headers["Location"]) == (301, f"{server.url}/dags")
    challenge = f"http://{server.address}/.well-known/acme-challenge"
    assert requests.get(f"{challenge}/none", timeout=30).status_code == 404
    outside = requests.get(f"{challenge}/..%2f..%2f..%2fetc/passwd", allow_redirects=False, timeout=30)
    assert outside.status_code in {301, 400, 404} and "root:" not in outside.text


def speak_tls(server, version: ssl.TLSVersion, ciphers: str) -> str:
    """Shake hands with one version of TLS and some ciphers; return the alert of the server, or nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    try:
        with socket.create_connection((server.address, 443)) as plain, context.wrap_socket(plain) as secure:
            assert secure.version() == version.name.replace("_", ".")
    except ssl.SSLError as error:
        return error.reason
    return ""


@pytest.mark.door(4)
def test_old_tls_and_weak_ciphers_are_refused(server):
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        assert speak_tls(server, version, "ALL") == "TLSV1_ALERT_PROTOCOL_VERSION", version
    # The lab's certificates have keys of elliptic curves.
    for cipher in ("ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-CCM"):
        assert "HANDSHAKE_FAILURE" in speak_tls(server, ssl.TLSVersion.TLSv1_2, cipher), cipher
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert speak_tls(server, version, "ECDHE+AESGCM") == "", version


def test_it_speaks_http_2(server):
    with connect(server, "h2", "http/1.1") as secure:
        assert secure.selected_alpn_protocol() == "h2"


@pytest.mark.door(5)
def test_every_answer_has_the_headers_of_a_closed_site(server):
    web = server.session()
    paths = {
        "": 200,
        "nothing/here": 200,
        "api/v2/version": 200,
        "auth/users/list/": 302,
        "api/v2/dags": 401,
        "docs": 404,
    }
    for path, status in paths.items():
        answer = web.get(f"{server.url}/{path}", allow_redirects=False)
        assert answer.status_code == status and set(answer.headers) >= HEADERS, (path, answer.headers)
    answer = web.get(server.url, headers={"Host": "elsewhere.example"})
    assert answer.status_code == 421 and set(answer.headers) >= HEADERS


def test_static_assets_are_gzipped_and_cached(server):
    page = server.session().get(f"{server.url}/").text
    asset = re.search(r'(?:src|href)="[^"]*?/?(static/assets/[^"]+\.js)"', page)[1]
    answer = server.session().get(f"{server.url}/{asset}")
    assert answer.headers["Content-Encoding"] == "gzip" and "immutable" in answer.headers["Cache-Control"]


@pytest.mark.door(13)
def test_a_client_cannot_say_where_it_comes_from(server):
    evil = {
        "X-Forwarded-Prefix": "//evil.example",
        "Forwarded": "host=evil.example",
        "X-Forwarded-Host": "evil.example",
    }
    answer = server.session().get(f"{server.url}/auth/users/list/", headers=evil, allow_redirects=False)
    assert answer.status_code in {301, 302, 307} and "evil" not in answer.headers["Location"]


@pytest.mark.door(13)
def test_malformed_requests_are_refused(server):
    host = f"Host: {server.address}\r\n".encode()
    requests_of_strangers = {
        "two hosts": (b"GET / HTTP/1.1\r\n" + host + b"Host: evil.example\r\n\r\n", {400}),
        "another host in the line": (b"GET http://evil.example/ HTTP/1.1\r\n" + host + b"\r\n", {421}),
        "two lengths": (
            b"POST /api/v2/dags HTTP/1.1\r\n"
            + host
            + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            {400},
        ),
        "a header of 40 kB": (b"GET / HTTP/1.1\r\n" + host + b"X: " + b"x" * 40_000 + b"\r\n\r\n", {400}),
        "TRACE": (b"TRACE / HTTP/1.1\r\n" + host + b"\r\n", {405}),
        "CONNECT": (b"CONNECT evil.example:443 HTTP/1.1\r\n" + host + b"\r\n", {400, 405, 421}),
        "out of the folder": (b"GET /static/../../../../etc/passwd HTTP/1.1\r\n" + host + b"\r\n", {400}),
        "a body too large": (b"POST /api/v2/dags HTTP/1.1\r\n" + host + b"Content-Length: 60000000\r\n\r\n", {413}),
    }
    answers = {name: say(server, request) for name, (request, _) in requests_of_strangers.items()}
    assert [
        (name, answers[name]) for name, (_, wanted) in requests_of_strangers.items() if answers[name] not in wanted
    ] == []


@pytest.mark.door(13)
def test_who_sends_its_request_slowly_is_cut_off(server):
    with connect(server) as secure:
        secure.settimeout(60)
        secure.sendall(b"GET / HTTP/1.1\r\nHost: ")
        # Either an answer that says so or nothing, but an end.
        assert secure.recv(1000) == b"" or secure.recv(1000) == b""


def test_a_load_balancer_may_ask_whether_it_lives(server):
    web = server.session()
    for host, path, status in (
        ("10.0.0.9:443", "api/v2/monitor/health", 200),
        ("10.0.0.9:443", "api/v2/version", 421),
        ("10.0.0.9:443", "", 421),
    ):
        assert web.get(f"{server.url}/{path}", headers={"Host": host}).status_code == status, path


@pytest.mark.door(12)
@pytest.mark.parametrize("door", ["token", "login/"])
def test_guessing_passwords_is_slowed_down(server, door):
    web = server.session()

    def guess() -> requests.Response:
        answer = {"username": "admin", "password": "guess"}
        body = {"json": answer} if door == "token" else {"data": answer}
        return web.post(f"{server.url}/auth/{door}", **body, allow_redirects=False)

    # Every ten seconds one more attempt is free; earlier tests took some.
    wait_until(lambda: guess().status_code != 429, 60, "no attempt is ever free", every=2)
    answers = [guess() for _ in range(12)]
    codes = [answer.status_code for answer in answers]
    assert codes[-1] == 429 and 200 not in codes and 201 not in codes
    assert set(answers[-1].headers) >= HEADERS


@pytest.mark.door(12)
def test_who_goes_on_guessing_is_locked_out(server):
    """From a second address, because the first is exempt."""
    other = str(server.lab.subnet[250])
    subprocess.run(["ip", "address", "add", f"{other}/32", "dev", server.lab.bridge], check=True)
    guess = ["curl", "-sk", "-m", "5", "--interface", other, "-o", "/dev/null", "-w", "%{http_code}"]
    guess += ["-H", "Content-Type: application/json", "-d", '{"username": "admin", "password": "guess"}']

    def status() -> str:
        return subprocess.run([*guess, f"{server.url}/auth/token"], text=True, capture_output=True, check=False).stdout

    try:
        wait_until(lambda: status() == "000", 120, "nobody is ever locked out", every=0.1)
        assert other in server.run("fail2ban-client status nginx-limit-req")
        assert server.session().get(f"{server.url}/api/v2/version").status_code == 200
    finally:
        server.run(f"fail2ban-client unban {other}")
        subprocess.run(["ip", "address", "delete", f"{other}/32", "dev", server.lab.bridge], check=True)
