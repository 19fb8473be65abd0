"""Who sees what in the user interface and the API: without a login, with a forged one, with each role."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator

import pytest

from tests.e2e.visitors import as_user, sign_in

# What must answer before a login.
OPEN = {
    "/api/v2/monitor/health",
    "/api/v2/version",
    "/api/v2/auth/login",
    "/api/v2/auth/logout",
    "/auth/token",
    "/auth/token/cli",
    "/auth/logout",
}
DESCRIBE = """
import json
from urllib.request import urlopen
found = []
for prefix, place in (("", "openapi.json"), ("/auth", "auth/openapi.json")):
    for path, methods in json.load(urlopen(f"http://127.0.0.1:8080/{place}"))["paths"].items():
        found += [(method.upper(), path if path.startswith(("/api", "/auth")) else prefix + path) for method in methods]
print(json.dumps(found))
"""
FORGE = """
import json, pathlib, time, jwt
key = pathlib.Path("/etc/airflow/secrets/jwt_secret").read_text().strip()
now = int(time.time())
claims = {"sub": "1", "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 600}
without = lambda *names: {name: value for name, value in claims.items() if name not in names}
forged = {
    "no signature": jwt.encode(claims, None, "none"),
    "another key": jwt.encode(claims, "x" * 64, "HS512"),
    "another algorithm": jwt.encode(claims, key, "HS256"),
    "no audience": jwt.encode(without("aud"), key, "HS512"),
    "a task's audience": jwt.encode({**claims, "aud": "urn:airflow.apache.org:task"}, key, "HS512"),
    "no end": jwt.encode(without("exp"), key, "HS512"),
    "over": jwt.encode({**claims, "exp": now - 60}, key, "HS512"),
    "not yet": jwt.encode({**claims, "nbf": now + 600}, key, "HS512"),
    "nobody's": jwt.encode({**claims, "sub": "4711"}, key, "HS512"),
}
print(json.dumps({**forged, "good": jwt.encode(claims, key, "HS512")}))
"""
LOG_IN = """
import json
from urllib.request import Request, urlopen
tokens = {}
for user, password in json.loads('%s').items():
    body = json.dumps({"username": user, "password": password}).encode()
    request = Request("http://127.0.0.1:8080/auth/token", body, {"Content-Type": "application/json"})
    tokens[user] = json.load(urlopen(request))["access_token"]
print(json.dumps(tokens))
"""
MARKER = "marker-of-the-doors"
# What each role may do, and nobody below it: the roles in their order.
ROLES = ["Public", "Viewer", "User", "Op", "Admin"]
CALLS = {
    ("GET", "api/v2/dags"): "Viewer",
    ("GET", "api/v2/dags/twitter/dagRuns"): "Viewer",
    ("GET", "api/v2/importErrors"): "Viewer",
    ("POST", "api/v2/dags/nothing/dagRuns"): "User",
    ("PATCH", "api/v2/dags/twitter"): "User",
    ("GET", "api/v2/connections"): "Op",
    ("GET", "api/v2/variables"): "Op",
    ("POST", "api/v2/variables"): "Op",
    ("POST", "api/v2/pools"): "Op",
    ("DELETE", "api/v2/connections/nothing"): "Op",
    ("GET", "auth/fab/v1/users"): "Admin",
    ("POST", "auth/fab/v1/users"): "Admin",
    ("GET", "auth/fab/v1/roles"): "Admin",
}


@pytest.mark.door(6)
def test_without_a_login_no_operation_of_the_api_answers(server):
    web = server.session()
    operations = json.loads(as_user(server, "www-data", DESCRIBE))
    assert len(operations) > 100
    answers = {}
    for method, path in operations:
        if path not in OPEN and not path.startswith("/execution"):
            url = server.url + re.sub(r"\{[^}]+\}", "x", path)
            answers[f"{method} {path}"] = web.request(method, url, allow_redirects=False).status_code
    assert {name: status for name, status in answers.items() if status not in {401, 403}} == {}


@pytest.mark.door(7)
def test_a_forged_token_opens_nothing(server):
    audience = json.loads(claims_of(server.logged_in.headers["Authorization"]))["aud"]
    program = FORGE.replace("AUDIENCE", repr(audience))
    tokens = json.loads(server.run("/opt/airflow/venv/bin/python -", stdin=program))
    web = server.session()
    answers = {
        name: web.get(f"{server.url}/api/v2/dags", headers={"Authorization": f"Bearer {token}"}).status_code
        for name, token in tokens.items()
    }
    assert answers.pop("good") == 200
    assert {name: status for name, status in answers.items() if status not in {401, 403}} == {}


def claims_of(header: str) -> bytes:
    """What a token says."""
    part = header.split(".")[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@pytest.mark.door(8)
def test_a_logout_ends_the_session_too(server):
    web, _ = sign_in(server)
    old = web.cookies.get_dict()
    web.get(f"{server.url}/auth/logout", allow_redirects=False)
    assert not web.cookies.get("_token")
    thief = server.session()
    thief.cookies.set("session", old["session"], domain=server.address)
    thief.get(f"{server.url}/auth/", allow_redirects=False)
    assert not thief.cookies.get("_token"), "the old session gives a new token"


@pytest.mark.door(8)
def test_a_token_lasts_an_hour(server):
    claims = json.loads(claims_of(server.logged_in.headers["Authorization"]))
    assert claims["exp"] - claims["iat"] == 3600


def test_cookies_are_closed(server):
    _, answer = sign_in(server)
    cookies = [value for name, value in answer.raw.headers.items() if name.lower() == "set-cookie"]
    assert answer.status_code in {302, 303} and cookies
    for cookie in cookies:
        assert "secure" in cookie.lower() and "samesite=lax" in cookie.lower(), cookie


@pytest.fixture(scope="module")
def people(server) -> Iterator[dict[str, dict[str, str]]]:
    """A user of each role: the headers that log it in."""
    admin, users = server.logged_in, f"{server.url}/auth/fab/v1/users"
    passwords = {role: f"password of a {role}" for role in ROLES if role not in {"Public", "Admin"}}
    for role, password in passwords.items():
        about = {"username": role, "first_name": role, "last_name": role, "email": f"{role}@lab.example"}
        answer = admin.post(users, json={**about, "password": password, "roles": [{"name": role}]})
        assert answer.status_code in {200, 201}, answer.text
    tokens = json.loads(as_user(server, "www-data", LOG_IN % json.dumps(passwords)))
    headers = {role: {"Authorization": f"Bearer {token}"} for role, token in tokens.items()}
    yield {"Public": {}, "Admin": {"Authorization": admin.headers["Authorization"]}, **headers}
    for role in passwords:
        admin.delete(f"{users}/{role}")


@pytest.mark.door(9)
def test_each_role_may_do_what_is_its_own(server, people):
    web = server.session()
    wrong = []
    for (method, path), first in CALLS.items():
        for role, headers in people.items():
            # An empty body: who may gets an error about it, who may not a refusal first.
            body = {} if method in {"POST", "PATCH"} else None
            status = web.request(method, f"{server.url}/{path}", headers=headers, json=body).status_code
            may = ROLES.index(role) >= ROLES.index(first)
            if may == (status in {401, 403}):
                wrong.append((method, path, role, status))
    assert wrong == []


@pytest.mark.door(10)
def test_who_may_only_look_sees_no_secret(server, people):
    connection = {
        "connection_id": "doors",
        "conn_type": "http",
        "password": MARKER,
        "extra": json.dumps({"token": MARKER}),
    }
    admin = server.logged_in
    admin.post(f"{server.url}/api/v2/connections", json=connection)
    admin.post(f"{server.url}/api/v2/variables", json={"key": "doors_password", "value": MARKER})
    try:
        web, seen = server.session(), []
        for path in (
            "connections/doors",
            "connections",
            "variables/doors_password",
            "variables",
            "config",
            "eventLogs",
        ):
            for role, headers in people.items():
                if MARKER in web.get(f"{server.url}/api/v2/{path}", headers=headers).text:
                    seen.append((path, role))
    finally:
        admin.delete(f"{server.url}/api/v2/connections/doors")
        admin.delete(f"{server.url}/api/v2/variables/doors_password")
    assert seen == []


@pytest.mark.door(11)
def test_the_api_descriptions_are_closed(server):
    web = server.session()
    paths = ["execution/health", "execution/docs", "docs", "redoc", "openapi.json"]
    paths += ["auth/docs", "auth/redoc", "auth/openapi.json", "%64ocs", "//docs", "x/../docs", "execution%2fhealth"]
    # Paths that nginx reads differently reach the user interface, which has no such page.
    answers = {path: web.get(f"{server.url}/{path}") for path in paths}
    told = {path: answer.status_code for path, answer in answers.items() if b"openapi" in answer.content.lower()}
    assert told == {} and {answers[path].status_code for path in paths[:8]} == {404}


def test_pages_after_login_are_not_stored(server):
    answers = {
        path: server.logged_in.get(f"{server.url}/{path}").headers for path in ("api/v2/dags", "", "auth/login/")
    }
    assert all("no-store" in headers["Cache-Control"] for headers in answers.values()), answers


def test_the_pages_of_users_are_seen_within_the_others(server, browser):
    context = browser.new_context(ignore_https_errors=True)
    page = context.new_page()
    page.goto(f"{server.url}/auth/login/")
    page.fill("input[name=username]", "admin")
    page.fill("input[name=password]", server.password)
    page.click("[type=submit]")
    page.wait_for_url(f"{server.url}/")
    page.goto(f"{server.url}/security/users")
    page.frame_locator("iframe").get_by_text("admin@example.com").or_(
        page.frame_locator("iframe").get_by_text("List Users")
    ).first.wait_for(timeout=60_000)
    context.close()
