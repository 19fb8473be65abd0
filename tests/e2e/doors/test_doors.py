"""Who comes in where, from outside and on the host itself: the checks of an intruder."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess

import pytest

from lab import services
from tests.server import wait_until

ASK = """
from urllib.request import Request, urlopen
print(urlopen(Request("{}", method="{}", headers={{"X-aws-ec2-metadata-token-ttl-seconds": "60"}}), timeout=5).status)
"""
TOKEN = ASK.format("http://169.254.169.254/latest/api/token", "PUT")
API = ASK.format("http://127.0.0.1:8080/api/v2/version", "GET")
# Units that are ours to close, with the exposure that systemd gives them at most.
EXPOSURE = 2.8


def as_user(server, user: str, program: str) -> str:
    """What Python prints for a user, or nothing where it fails."""
    return server.run(f"cd /; runuser -u {user} -- python3 - || true", stdin=program).strip()


@pytest.mark.parametrize("user", ["root", "airflow-tasks", "airflow-triggerer"])
def test_who_needs_the_role_gets_its_keys(server, user):
    assert as_user(server, user, TOKEN) == "200"


@pytest.mark.parametrize(
    "user", ["nobody", "www-data", "postgres", "airflow-api-server", "airflow-scheduler", "airflow-dag-processor"]
)
def test_nobody_else_gets_the_keys_of_the_role(server, user):
    assert as_user(server, user, TOKEN) == ""


def test_past_nginx_only_its_users_reach_the_api_server(server):
    assert [as_user(server, user, API) for user in ("www-data", "airflow-tasks")] == ["200", "200"]
    assert [as_user(server, user, API) for user in ("nobody", "airflow-scheduler", "postgres")] == ["", "", ""]


def sign_in(server):
    """A session of the login form."""
    web = server.session()
    form = web.get(f"{server.url}/auth/login/").text
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', form)[1]
    login = {"username": "admin", "password": server.password, "csrf_token": token}
    web.post(f"{server.url}/auth/login/", data=login, headers={"Referer": server.url}, allow_redirects=False)
    assert {"session", "_token"} <= set(web.cookies.keys())
    return web


def test_a_logout_ends_the_session_too(server):
    web = sign_in(server)
    old = web.cookies.get_dict()
    web.get(f"{server.url}/auth/logout", allow_redirects=False)
    assert not web.cookies.get("_token")
    thief = server.session()
    thief.cookies.set("session", old["session"], domain=server.address)
    thief.get(f"{server.url}/auth/", allow_redirects=False)
    assert not thief.cookies.get("_token"), "the old session gives a new token"


def test_a_token_lasts_an_hour(server):
    token = server.logged_in.headers["Authorization"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    assert claims["exp"] - claims["iat"] == 3600


def test_what_describes_the_interfaces_is_closed(server):
    web = server.session()
    paths = ("execution/health", "docs", "redoc", "openapi.json", "auth/docs", "auth/redoc", "auth/openapi.json")
    assert {path: web.get(f"{server.url}/{path}").status_code for path in paths} == dict.fromkeys(paths, 404)


def test_a_client_cannot_say_where_it_comes_from(server):
    evil = {
        "X-Forwarded-Prefix": "//evil.example",
        "Forwarded": "host=evil.example",
        "X-Forwarded-Host": "evil.example",
    }
    answer = server.session().get(f"{server.url}/auth/users/list/", headers=evil, allow_redirects=False)
    assert answer.status_code in {301, 302, 307} and "evil" not in answer.headers["Location"]


def test_what_a_login_shows_stays_on_no_disk(server):
    answers = {
        path: server.logged_in.get(f"{server.url}/{path}").headers for path in ("api/v2/dags", "", "auth/login/")
    }
    assert all("no-store" in headers["Cache-Control"] for headers in answers.values()), answers


def shake_hands(server, *protocols: str) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(services.authority(server.lab)))
    context.set_alpn_protocols(list(protocols))
    return context.wrap_socket(socket.create_connection((server.address, 443)), server_hostname=server.address)


def test_it_speaks_http_2(server):
    with shake_hands(server, "h2", "http/1.1") as secure:
        assert secure.selected_alpn_protocol() == "h2"


def test_who_sends_its_request_slowly_is_cut_off(server):
    with shake_hands(server, "http/1.1") as secure:
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


def test_a_command_leaves_no_password_in_the_journal(server):
    marker = "marker-of-the-doors"
    # Through standard input: sudo itself notes what it is told.
    server.run("bash -s", stdin=f"airflow connections add probe --conn-type http --conn-password {marker}\n")
    server.run("bash -s", stdin="airflow connections delete probe\n")
    assert marker not in server.run("journalctl --no-pager -o cat")


def test_an_operators_command_sees_no_more_secrets_than_it_needs(server):
    look = "import os; print(sorted(os.listdir(os.environ['CREDENTIALS_DIRECTORY'])))"
    assert server.run(f"airflow-run python -c {shlex.quote(look)}").strip() == "['database_url', 'fernet_key']"
    assert "admin" in server.run("airflow users list 2> /dev/null")


def test_no_unit_of_ours_is_exposed(server):
    units = server.run(
        "systemctl list-units --plain --no-legend --state=active 'airflow*.service' | cut -d' ' -f1"
    ).split()
    for unit in [*units, "nginx.service", "postgresql@17-main.service"]:
        said = server.run(f"systemd-analyze security --no-pager {unit} | tail -1")
        assert float(re.search(r"service: ([0-9.]+)", said)[1]) <= EXPOSURE, said


def test_ssh_forwards_nothing_and_notes_who_came(server):
    said = server.run("sshd -T -C user=admin,host=x,addr=192.0.2.1")
    for line in ("allowtcpforwarding no", "allowagentforwarding no", "loglevel VERBOSE", "passwordauthentication no"):
        assert line in said
    assert "sha1" not in re.search(r"(?m)^macs (.*)$", said)[1]


def test_who_may_log_in_is_a_list(server, tmp_path):
    """A second operator comes and goes, and the first keeps the key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "second"], check=True)
    mine = server.lab.private_key.with_suffix(".pub").read_text().strip()
    second = (tmp_path / "second.pub").read_text().strip()
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes"]
    ssh = ["ssh", *options, "-o", "BatchMode=yes", "-i", tmp_path / "second", f"admin@{server.address}", "true"]
    for keys, status in (([mine, second], 0), ([mine], 255)):
        server.play("site.yml", "--tags", "base", "-e", json.dumps({"base_ssh_keys": keys}))
        assert subprocess.run(ssh, capture_output=True, check=False).returncode == status
    refused = server.play("site.yml", "--tags", "base", "-e", json.dumps({"base_ssh_keys": ["a"]}), succeeds=False)
    assert "nobody could log in any more" in refused.words and refused.changed == 0


def test_a_lost_key_of_encryption_is_never_replaced_in_silence(server):
    server.run("cd /etc/airflow/secrets && mv fernet_key /root/fernet_key")
    try:
        refused = server.play("site.yml", "--tags", "airflow", succeeds=False)
        assert "put that file back from a backup" in refused.words
        server.run("! test -e /etc/airflow/secrets/fernet_key")
    finally:
        server.run("mv /root/fernet_key /etc/airflow/secrets/fernet_key")


def test_a_second_run_is_refused_and_told_whose_the_first_is(server):
    first = server.begin("site.yml")
    try:
        mine = f'"process": {first.pid}'
        wait_until(lambda: mine in server.run("cat /srv/airflow/lock"), 60, "the first does not lock")
        os.kill(first.pid, signal.SIGSTOP)
        for playbook in ("site.yml", "update.yml"):
            assert "has been at the host since" in server.play(playbook, succeeds=False).words
    finally:
        os.kill(first.pid, signal.SIGCONT)
        output, _ = first.communicate()
    assert first.returncode == 0, output[-3000:]
    assert server.run("cat /srv/airflow/lock").strip() == ""


WRITTEN = {
    "base": "/etc/ssh/sshd_config.d/10-airstrip.conf",
    "nginx": "/etc/nginx/conf.d/airflow.conf",
    "postgresql": "/etc/postgresql/17/main/pg_hba.conf",
}


def test_what_a_run_wrote_and_did_not_apply_is_applied_by_the_next(server):
    for role, path in WRITTEN.items():
        server.run(f"mkdir -p /var/lib/airstrip/pending && echo {path} > /var/lib/airstrip/pending/{role}")
    tasks = server.play("site.yml").output
    for handler in ("Reload the SSH server", "Reload or restart nginx", "Reload PostgreSQL"):
        assert re.search(rf"RUNNING HANDLER \[\w+ : {handler}\] \**\nchanged", tasks), handler
    assert server.run("ls /var/lib/airstrip/pending") == ""
    assert server.play("site.yml").changed == 0


def test_with_the_database_down_the_doctor_speaks_of_all_the_rest(server):
    server.run("systemctl stop postgresql@17-main; touch /run/reboot-required")
    try:
        said = server.play("check.yml", succeeds=False).words
    finally:
        server.run("systemctl start postgresql@17-main; rm /run/reboot-required")
    for line in ("FAIL database", "FAIL dags", "FAIL reboot", "ok disk", "ok tls", "ok closed paths", "ok secrets"):
        assert line in said, line
    server.wait_until_healthy()


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
