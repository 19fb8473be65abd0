"""The operator's story on Debian 13: install, again, look, use."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import os
import re
import socket
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lab import disk, services
from lab.settings import BUCKET, Lab
from lab.x_api.people import lab_people, posts
from tests.e2e.conftest import keep, kept_name, one_at_a_time
from tests.server import ROOT, Server, wait_until

COUNTS = ["like_count", "retweet_count"]
# The users of the processes that have a secret in environment or command line, and the files that show it to everybody.
SEARCH = """
import json, os, pathlib, pwd, subprocess
secrets = json.loads('%s')
processes = {}
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        told = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
        user = pwd.getpwuid(folder.stat().st_uid).pw_name
    except (FileNotFoundError, ProcessLookupError):
        continue
    for name, value in secrets.items():
        if value.encode() in told:
            processes.setdefault(name, []).append(user)
files = {}
places = ["/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/local", "/var"]
for name, value in secrets.items():
    grep = ["runuser", "-u", "nobody", "--", "grep", "-rlsF", "-f", "-", "--exclude-dir=venvs", "--exclude-dir=cache"]
    said = subprocess.run([*grep, *places], input=value, text=True, capture_output=True).stdout
    if said:
        files[name] = said.split()
print(json.dumps({"processes": processes, "files": files}))
"""


@pytest.fixture(scope="module")
def machine(lab, place) -> Server:
    """The lab's machine, made on EC2 and deployed to from nothing; the other groups' machines start from it."""
    machine = place.server("airstrip")
    with one_at_a_time() if not disk.kept(kept_name()) else contextlib.nullcontext():
        machine.play("provision.yml")
        # A look before the first change must work where nothing is installed yet.
        machine.play("site.yml", "--check", "--diff")
        machine.play("site.yml")
        if not disk.kept(kept_name()):
            keep(machine)
    return machine


def make(lab: Lab, target: str) -> str:
    """Run make as a newcomer does, and return what it printed."""
    # Not what the make that runs these tests tells its children.
    ambient = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment = {**ambient, **lab.environment}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    result = subprocess.run(["make", target], cwd=ROOT, env=environment, text=True, check=False, **streams)
    assert result.returncode == 0, result.stdout[-6000:]
    return result.stdout


@pytest.fixture(scope="module")
def closing(lab, machine) -> str:
    """The last words of `make lab`."""
    said = make(lab, "lab")
    return said[said.rindex("\nUI ") :]


@pytest.fixture(scope="module")
def server(machine, closing) -> Server:
    """The machine of `make lab`."""
    return machine


def test_make_lab_ends_with_where_to_look_and_what_was_made(server, closing):
    address = re.search(r"(?m)^UI +(https://\S+)/$", closing)[1]
    assert address == server.url and server.session().get(f"{address}/api/v2/version").status_code == 200
    assert re.search(r"(?m)^user +admin$", closing)
    assert re.search(r"(?m)^password +make lab-ssh, then: sudo cat /etc/airflow/secrets/admin_password$", closing)
    assert re.search(r"(?m)^posts +21 of \d{4}-\d\d-\d\d, bought for 0\.1[34] USD$", closing)
    s3 = server.aws("s3")
    keys = re.findall(r"(?m)^S3 key +s3://([^/]+)/(\S+posts\.csv)$", closing)
    assert len(keys) == 3
    for bucket, key in keys:
        assert s3.head_object(Bucket=bucket, Key=key)["ContentLength"] > 0
    bucket, key, folder = re.search(
        r"(?m)^report +s3://([^/]+)/(\S+report\.txt); mails are in (\S+)$", closing
    ).groups()
    report = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
    assert all(f"  {line}" in closing for line in report.splitlines()) and len(list(Path(folder).iterdir())) == 1


def test_second_run_changes_nothing(server):
    play = server.play("site.yml")
    assert play.changed == 0, play.changed_tasks


def test_check_mode_agrees(server):
    assert server.play("site.yml", "--check", "--diff").changed == 0


def test_the_doctor_is_content(server):
    said = make(server.lab, "lab-check")
    assert said.count("- ok ") == 15 and "FAIL" not in said


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


def test_the_pipeline_lands_on_s3_and_a_second_run_gives_the_same_objects(server):
    s3 = server.aws("s3")
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    folder = f"curated/x/posts/dt={day:%Y-%m-%d}"
    contents = []
    # What `make lab` collected, and what a run after it leaves.
    for command in ([], ["run.yml", "-e", "dag=twitter"]):
        if command:
            server.play(*command)
        listing = [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{folder}/")["Contents"]]
        contents.append({key: s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in listing})
    assert contents[0] == contents[1]
    people = lab_people()
    files = [f"{folder}/user_id={person.id}/posts.csv" for person in people]
    assert sorted(contents[0]) == [f"{folder}/_manifest.json", *files]
    for person, file in zip(people, files, strict=True):
        rows = list(csv.DictReader(io.StringIO(contents[0][file].decode(), newline="")))
        expected = {post["id"]: post for post in posts(person, day)}
        assert {row["post_id"] for row in rows} == set(expected) and {row["username"] for row in rows} == {
            person.username
        }
        for row in rows:
            counts = expected[row["post_id"]]["public_metrics"]
            assert [int(row[name]) for name in COUNTS] == [counts[name] for name in COUNTS]


def test_operators_type_what_they_know(server):
    assert "twitter" in server.run("airflow dags list 2>/dev/null")
    units = server.run("systemctl list-units --plain --no-legend 'airflow-*' | awk '{print $1, $3}'").split("\n")
    names = [f"airflow-{name}.service" for name in ("dag-processor", "triggerer", "webserver")]
    for unit in (*names, server.unit("api-server"), server.unit("runner"), server.unit("scheduler")):
        assert f"{unit} active" in units
    main_process = f"systemctl show -p MainPID --value {server.unit('api-server')}"
    before = server.run(main_process)
    server.run("systemctl restart airflow-webserver")
    after = server.run(main_process)
    assert before != after != "0\n"
    refusal = server.run("runuser -u nobody -- airflow dags list 2>&1", check=False)
    assert "sudo" in refusal


def test_units_are_sandboxed(server):
    limits = {"api-server@a": 1.4, "runner@a": 1.8, "scheduler@a": 1.8, "dag-processor": 1.8, "triggerer": 1.8}
    limits = {f"airflow-{name}.service": limit for name, limit in limits.items()} | {"nginx.service": 2.7}
    for unit, limit in limits.items():
        text = server.run(f"systemd-analyze security --no-pager {unit} | tail -1")
        assert float(re.search(r": ([0-9.]+) ", text)[1]) <= limit, text


def test_each_unit_has_its_own_secrets_and_nobody_else_has_any(server):
    names = server.run("cd /etc/airflow/secrets && ls").split()
    values = {name: server.run(f"cat /etc/airflow/secrets/{name}").strip() for name in names if "." not in name}
    passwords = {"database_password", "warehouse_password", "admin_password"}
    assert set(values) >= {"fernet_key", "jwt_secret", "api_secret_key", *passwords}
    scheduler = server.unit("scheduler")
    given = {server.unit("api-server"): {"database_url", "fernet_key", "jwt_secret", "api_secret_key"},
             scheduler: {"database_url", "fernet_key", "jwt_secret"},
             "airflow-dag-processor.service": {"database_url", "fernet_key"},
             "airflow-triggerer.service": {"database_url", "fernet_key"}}  # fmt: skip
    for unit, expected in given.items():
        assert set(server.run(f"ls /run/credentials/{unit}").split()) == expected, unit
    server.run(f"! test -e /run/credentials/{server.unit('runner')}")
    # As the user of one component, the credentials of another are out of reach.
    server.run(f"! runuser -u airflow-dag-processor -- cat /run/credentials/{scheduler}/jwt_secret")
    server.run("! runuser -u nobody -- ls /etc/airflow/secrets")
    # Those of the tasks' connections are in the environment of the units that may use them, and of no other process.
    tasks = {"x_api": services.x_bearer_token(server.lab), "warehouse": values.pop("warehouse_password")}
    allowed = {"airflow-tasks", "airflow-dag-processor", "airflow-triggerer"}
    # Through standard input: a command line could be seen too.
    found = json.loads(server.run("python3 -", stdin=SEARCH % json.dumps({**values, **tasks})))
    assert set(found["processes"]) == set(tasks), found
    assert {user for users in found["processes"].values() for user in users} == allowed
    assert found["files"] == {}
    journal = server.run("journalctl --no-pager -o cat")
    assert "Bearer ey" not in journal
    assert [name for name, value in {**values, **tasks}.items() if value in journal] == []


def test_nginx_keeps_the_door(server):
    web = server.session()
    for path, status in {"/": 200, "/api/v2/version": 200, "/api/v2/dags": 401, "/nothing/here": 200}.items():
        answer = web.get(server.url + path, allow_redirects=True)
        assert answer.status_code == status, path
        for header in ("Strict-Transport-Security", "Content-Security-Policy", "X-Content-Type-Options"):
            assert header in answer.headers, f"{path} has no {header}"
    for path in ("/execution/health", "/execution/docs", "/docs", "/redoc", "/openapi.json"):
        assert web.get(server.url + path).status_code == 404, path
    assert web.get(server.url, headers={"Host": "elsewhere.example"}).status_code == 421
    plain = web.get(f"http://{server.address}/dags", allow_redirects=False)
    assert (plain.status_code, plain.headers["Location"]) == (301, f"{server.url}/dags")
    page = web.get(f"{server.url}/").text
    asset = re.search(r'(?:src|href)="[^"]*?/?(static/assets/[^"]+\.js)"', page)[1]
    answer = web.get(f"{server.url}/{asset}")
    assert answer.headers["Content-Encoding"] == "gzip" and "immutable" in answer.headers["Cache-Control"]


def test_cookies_are_closed(server):
    web = server.session()
    form = web.get(f"{server.url}/auth/login/").text
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', form)[1]
    login = {"username": "admin", "password": server.password, "csrf_token": token}
    answer = web.post(f"{server.url}/auth/login/", data=login, headers={"Referer": server.url}, allow_redirects=False)
    cookies = [value for name, value in answer.raw.headers.items() if name.lower() == "set-cookie"]
    assert answer.status_code in {302, 303} and cookies
    for cookie in cookies:
        assert "secure" in cookie.lower() and "samesite=lax" in cookie.lower(), cookie


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


def test_old_tls_and_weak_ciphers_are_refused(server):
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        assert speak_tls(server, version, "ALL") == "TLSV1_ALERT_PROTOCOL_VERSION", version
    # The lab's certificates have keys of elliptic curves.
    for cipher in ("ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-CCM"):
        assert "HANDSHAKE_FAILURE" in speak_tls(server, ssl.TLSVersion.TLSv1_2, cipher), cipher
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert speak_tls(server, version, "ECDHE+AESGCM") == "", version


@pytest.mark.parametrize("door", ["token", "login/"])
def test_guessing_passwords_is_slowed_down(server, door):
    web = server.session()

    def guess() -> int:
        answer = {"username": "admin", "password": "guess"}
        body = {"json": answer} if door == "token" else {"data": answer}
        return web.post(f"{server.url}/auth/{door}", **body, allow_redirects=False).status_code

    # Every ten seconds one more attempt is free; earlier tests took some.
    wait_until(lambda: guess() != 429, 60, "no attempt is ever free", every=2)
    codes = [guess() for _ in range(12)]
    assert codes[-1] == 429 and 200 not in codes and 201 not in codes


def test_ansible_says_no_secret(server):
    """Not even at its most talkative, and where it shows what it would change."""
    # A unit of each kind, the file with the tasks' secrets and the database's password would change.
    changed = {"airflow_task_environment": {"AWS_DEFAULT_REGION": "eu-west-1"}, "airflow_parallelism": 3}
    said = server.play("site.yml", "-vvv", "--check", "--diff", "-e", json.dumps(changed))
    assert said.changed > 0 and "+parallelism = 3" in said.output
    names = server.run("cd /etc/airflow/secrets && ls").split()
    values = {name: server.run(f"cat /etc/airflow/secrets/{name}").strip() for name in names if "." not in name}
    values["x_api"] = services.x_bearer_token(server.lab)
    values["orders"] = services.orders_password(server.lab)
    logs = (server.artefacts / f"{server.stack}.log").read_text()
    assert [name for name, value in values.items() if value in logs] == []


def test_make_lab_down_leaves_nothing(server):
    lab = server.lab
    make(lab, "lab-down")
    assert not lab.state.exists() and not Path("/sys/class/net", lab.bridge).exists()
    assert f"{lab.state}/" not in Path("/proc/self/mounts").read_text()
    left = subprocess.run(["pgrep", "--full", f"{lab.state}/"], text=True, capture_output=True, check=False).stdout
    assert left == ""
    tables = subprocess.run(["nft", "list", "tables"], text=True, capture_output=True, check=True).stdout
    assert f"airstrip_{lab.name}\n" not in tables
