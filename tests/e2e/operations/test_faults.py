"""Drift and faults on Debian 13."""

from __future__ import annotations

import re
import ssl
import time
from dataclasses import dataclass

import pytest

from tests.server import wait_until

UNITS = "/etc/systemd/system"
SSHD = "/etc/ssh/sshd_config.d/10-airstrip.conf"
SUPERUSER = "SELECT rolsuper FROM pg_roles WHERE rolname = 'airflow'"


@dataclass
class Drift:
    """What somebody does to the host, what `site.yml --diff` then shows, and what it restores."""

    done: str
    shown: str
    asked: str
    answer: str
    # What the doctor says of it, where it looks.
    found: str = ""


DRIFTS = {
    "a unit edited": Drift(
        f"sed -i 's/KillMode=mixed/KillMode=process/' {UNITS}/airflow-.service.d/common.conf",
        "+KillMode=mixed",
        f"grep -c KillMode=mixed {UNITS}/airflow-.service.d/common.conf",
        "1",
    ),
    "a unit removed": Drift(
        f"rm {UNITS}/airflow-triggerer.service",
        "+++ after: /etc/systemd/system/airflow-triggerer.service",
        "systemctl is-active airflow-triggerer",
        "active",
    ),
    "an option of airflow.cfg edited": Drift(
        "sed -i 's/^parallelism = .*/parallelism = 99/' /etc/airflow/airflow.cfg",
        "-parallelism = 99",
        "grep -c '^parallelism = 99' /etc/airflow/airflow.cfg || true",
        "0",
    ),
    "a secret's mode": Drift(
        "chmod 0644 /etc/airflow/secrets/fernet_key",
        "TASK [airflow : Keep the secrets on the first host]",
        "stat -c %a /etc/airflow/secrets/fernet_key",
        "600",
        "FAIL secrets readable by others: /etc/airflow/secrets/fernet_key",
    ),
    "a directory's owner": Drift(
        "chown nobody /var/log/airflow", "-# directory nobody", "stat -c %U /var/log/airflow", "root"
    ),
    "a stopped service": Drift(
        "systemctl stop airflow-dag-processor",
        "+start airflow-dag-processor.service",
        "systemctl is-active airflow-dag-processor",
        "active",
        "FAIL units not running: airflow-dag-processor.service; fix: sudo systemctl start airflow-dag-processor",
    ),
    "a disabled service": Drift(
        "systemctl disable airflow-scheduler@a airflow-scheduler@b",
        "+enable airflow-scheduler@",
        "systemctl is-enabled airflow-scheduler@a airflow-scheduler@b | grep -xc enabled",
        "1",
    ),
    "a changed pg_hba": Drift(
        "sed -i 's/scram-sha-256/trust/' /etc/postgresql/17/main/pg_hba.conf",
        "scram-sha-256",
        "grep -c trust /etc/postgresql/17/main/pg_hba.conf || true",
        "0",
    ),
    "a changed site": Drift(
        "sed -i 's/return 404/return 200/' /etc/nginx/conf.d/airflow.conf && nginx -s reload",
        "return 404",
        "grep -c 'return 200' /etc/nginx/conf.d/airflow.conf || true",
        "0",
        "FAIL closed paths open to everybody: /execution/health, /docs, /redoc",
    ),
    "a port that leads nowhere": Drift(
        "sed -i 's/return 301/return 303/' /etc/nginx/conf.d/airflow.conf && nginx -s reload",
        "return 301",
        "grep -c 'return 303' /etc/nginx/conf.d/airflow.conf || true",
        "0",
        "FAIL redirect port 80 answers 303",
    ),
    "a DAG edited on the host": Drift(
        "echo '# edited' >> /srv/airflow/current/dags/twitter_dag.py",
        "-# edited",
        "grep -c '# edited' /srv/airflow/current/dags/twitter_dag.py || true",
        "0",
    ),
    "a package of the virtualenv removed": Drift(
        "cd /opt/airflow && uv-*/bin/uv pip uninstall -q -p venv/bin/python tweepy",
        "TASK [airflow : Install uv, and with it Airflow into the virtualenv]",
        "airflow-run python -c 'import tweepy; print(1)'",
        "1",
    ),
    "sshd allows passwords": Drift(
        f"sed -i 's/PasswordAuthentication no/PasswordAuthentication yes/' {SSHD}",
        "+PasswordAuthentication no",
        "sshd -T | grep passwordauthentication",
        "passwordauthentication no",
    ),
    "the database's owner is a superuser": Drift(
        "runuser -u postgres -- psql -qc 'ALTER ROLE airflow SUPERUSER'",
        "TASK [postgresql : Keep the roles]",
        f'runuser -u postgres -- psql -Atc "{SUPERUSER}"',
        "f",
    ),
}


def test_every_drift_is_found_and_repaired(server):
    for drift in DRIFTS.values():
        server.run(drift.done)
    sick = server.play("check.yml", succeeds=False)
    for name, drift in DRIFTS.items():
        assert drift.found in sick.words, name
    repaired = server.play("site.yml", "--diff")
    for name, drift in DRIFTS.items():
        shown = repaired.changed_tasks if drift.shown.startswith("TASK") else repaired.output
        assert drift.shown in shown, f"--diff does not show {name}: {drift.shown}"
    found = {name: server.run(drift.asked).strip() for name, drift in DRIFTS.items()}
    assert found == {name: drift.answer for name, drift in DRIFTS.items()}
    server.play("check.yml")


@dataclass
class Fault:
    """What befalls the host, how it ends, and what the doctor says of it."""

    done: str
    ended: str
    found: str


DIST_INFO = "cd /opt/airflow/venv/lib/python3*/site-packages"
BROKEN = "INSERT INTO import_error (filename, stacktrace) VALUES ('dags/broken.py', E'Traceback\\nNameError: x\\n')"
SHORT_LIVED = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 5 -subj /CN=short "
    "-keyout /etc/nginx/tls/key.pem -out /etc/nginx/tls/certificate.pem 2>&1"
)
FAULTS = {
    "a component hangs": Fault(
        "systemctl service-watchdogs no && systemctl kill -s STOP airflow-triggerer",
        "systemctl kill -s CONT airflow-triggerer; systemctl service-watchdogs yes",
        "FAIL health no heartbeat from triggerer; fix: sudo systemctl restart airflow.target",
    ),
    "a DAG is broken": Fault(
        f'runuser -u postgres -- psql -qc "{BROKEN}" airflow',
        "runuser -u postgres -- psql -qc \"DELETE FROM import_error WHERE filename = 'dags/broken.py'\" airflow",
        "FAIL dags import errors: dags/broken.py: NameError: x; fix: correct the file",
    ),
    "the logs fill their disk": Fault(
        "mount -t tmpfs -o size=1m tmpfs /var/log/airflow && head -c 950K /dev/zero > /var/log/airflow/full",
        "umount --lazy /var/log/airflow",
        "FAIL disk nearly full: /var/log/airflow 9",
    ),
    "the certificate ends soon": Fault(
        f"cp -a /etc/nginx/tls /root/tls && {SHORT_LIVED}",
        "cp -a /root/tls/. /etc/nginx/tls/ && rm -r /root/tls && nginx -s reload",
        "FAIL certificate /etc/nginx/tls/certificate.pem ends in 5 days; fix: run site.yml --tags nginx, with a new",
    ),
    "another version is installed": Fault(
        f"{DIST_INFO} && mv apache_airflow-3.*.dist-info apache_airflow-9.9.9.dist-info",
        f"{DIST_INFO} && mv apache_airflow-9.9.9.dist-info apache_airflow-$(/opt/airflow/venv/bin/python -c "
        "'import airflow; print(airflow.__version__)').dist-info",
        "runs but 9.9.9 is installed; fix: sudo systemctl restart airflow.target",
    ),
    "nobody knows the password": Fault(
        "cp -a /etc/airflow/secrets/admin_password /root/ && printf forgotten > /etc/airflow/secrets/admin_password",
        "mv /root/admin_password /etc/airflow/secrets/",
        "FAIL login admin gets 401",
    ),
    "tasks show what another key signed": Fault(
        "cp -a /etc/airflow/secrets/jwt_secret /root/ && openssl rand -hex 32 > /etc/airflow/secrets/jwt_secret",
        "mv /root/jwt_secret /etc/airflow/secrets/",
        "FAIL tokens the API server answers 403 to a task's token; fix: sudo airflow-restart api-server scheduler",
    ),
    "a service runs what an upgrade replaced": Fault(
        # Once it is executed, and not merely begun.
        "cp /usr/bin/sleep /usr/local/bin/old && "
        "systemd-run --quiet --property=Type=exec --unit=old /usr/local/bin/old 900 && "
        "cp /usr/bin/sleep /usr/local/bin/new && mv /usr/local/bin/new /usr/local/bin/old",
        "systemctl stop old; rm /usr/local/bin/old",
        "FAIL libraries an upgrade replaced what these still use: old.service; fix: sudo systemctl restart old.service",
    ),
    "a port is open to everybody": Fault(
        "systemd-run --quiet --unit=listener python3 -m http.server 8793",
        "systemctl stop listener",
        "FAIL closed ports open to everybody: 8793",
    ),
}


def test_the_doctor_finds_each_fault(server, open_security_group):
    try:
        for fault in FAULTS.values():
            server.run(fault.done)
        health = f"{server.url}/api/v2/monitor/health"
        wait_until(lambda: server.session().get(health).json()["triggerer"]["status"] == "unhealthy", 120, every=1)
        sick = server.play("check.yml", succeeds=False)
        server.run("nginx -s reload")
        untrusted = server.play("check.yml", succeeds=False)
    finally:
        for fault in FAULTS.values():
            server.run(fault.ended, check=False)
    for name, fault in FAULTS.items():
        assert fault.found in sick.words, (name, sick.output)
    assert "FAIL tls no trusted connection" in untrusted.words
    assert "fix: run the check by hand" not in sick.output
    server.wait_until_healthy()
    server.play("check.yml")


def test_the_doctor_notices_a_wrong_clock(server):
    said = server.play("check.yml", "-e", f"__check_asked={time.time() + 3600}", succeeds=False).words
    assert re.search(r"FAIL clock \d{4} s away from the controller'+s; fix: sudo systemctl restart chrony", said)
    assert set(re.findall(r"FAIL (\w+)", said)) == {"clock"}


@pytest.mark.long
def test_a_link_that_leads_nowhere_is_found_and_repaired(server):
    server.run("ln -sfn releases/none /srv/airflow/current")
    assert "releases/none" in server.play("site.yml", "--tags", "release", "--diff").output
    assert server.run("test -f /srv/airflow/current/dags/twitter_dag.py && echo there") == "there\n"


# What a run wrote and has not yet applied, and what applies it.
PENDING = {
    "base": ("/etc/ssh/sshd_config.d/10-airstrip.conf\n/usr/local/share/ca-certificates/airstrip-1.crt",
             ["Reload the SSH server", "Read the trusted authorities again"]),
    "nginx": ("/etc/nginx/conf.d/airflow.conf", ["Reload or restart nginx"]),
    "postgresql": ("/etc/postgresql/17/main/pg_hba.conf", ["Reload PostgreSQL"]),
}  # fmt: skip


def test_the_next_run_completes_an_interrupted_one(server):
    # What such a run leaves: a new file that no process has read, and a password that nobody was given.
    server.run("cp -p /etc/airflow/airflow.cfg /root/ && touch /etc/airflow/airflow.cfg")
    look = server.play("site.yml", "--tags", "airflow", "--check", "--diff")
    assert look.changed_tasks == ["TASK [airflow : Run the units]"], look.changed_tasks
    assert look.output.count("+restart airflow-") == 5
    # All of it restarts in the test of the drifts; here the times are put back.
    server.run("touch -r /root/airflow.cfg /etc/airflow/airflow.cfg && rm /root/airflow.cfg")
    secret = "/etc/airflow/secrets/admin_password"
    server.run(f"cp -p {secret} /root/ && printf another-password > {secret} && touch -r /root/admin_password {secret}")
    for role, (paths, _) in PENDING.items():
        server.run(f"mkdir -p /var/lib/airstrip/pending && echo '{paths}' > /var/lib/airstrip/pending/{role}")
    play = server.play("site.yml")
    assert "TASK [airflow : Make the administrator, or give the new password]" in play.changed_tasks
    for role, (_, handlers) in PENDING.items():
        for handler in handlers:
            assert f"RUNNING HANDLER [{role} : {handler}]" in play.changed_tasks, handler
    assert server.run("ls /var/lib/airstrip/pending") == ""
    assert server.api()
    server.run("rm /root/admin_password")


def test_another_encryption_key_is_refused(server):
    key = "A" * 43 + "="
    refused = server.play("site.yml", "--tags", "airflow", "-e", f"airflow_fernet_key={key}", succeeds=False)
    assert "holds another key" in refused.output and refused.changed == 0


@pytest.mark.long
def test_without_a_certificate_one_is_made_and_kept(server):
    server.run("rm /etc/nginx/tls/*")
    own = ["--tags", "nginx", "-e", "nginx_certificate=self-signed"]
    assert server.play("site.yml", "--check", "--diff", *own).changed > 0
    assert server.play("site.yml", *own).changed > 0
    assert server.play("site.yml", *own).changed == 0
    served = ssl.get_server_certificate((server.address, 443))
    assert served.strip() in server.run("cat /etc/nginx/tls/certificate.pem")
    # The doctor trusts it: it fetched it over SSH.
    server.play("check.yml", "-e", "nginx_certificate=self-signed")
    server.play("site.yml", "--tags", "nginx")
    assert server.session().get(f"{server.url}/api/v2/version").status_code == 200


def test_a_bad_site_is_put_back_and_nginx_goes_on(server):
    refused = server.play("site.yml", "--tags", "nginx", "-e", "nginx_client_max_body_size=lots", succeeds=False)
    assert "nginx -t said" in refused.output and "put back" in refused.output
    assert server.session().get(f"{server.url}/api/v2/version").status_code == 200


def kill(server, unit: str) -> None:
    """Kill a unit's main process, and wait until systemd has it back."""
    main_process = f"systemctl show -p MainPID --value {unit}"
    before = server.run(main_process)
    server.run(f"systemctl kill -s KILL {unit}")
    state = f"{main_process}; systemctl is-active {unit}"

    def back() -> bool:
        process, active = server.run(state, check=False).split()
        return process not in {before.strip(), "0"} and active == "active"

    wait_until(back, 90, lambda: server.run(f"systemctl status --no-pager {unit}", check=False))


@pytest.mark.parametrize("unit", ["api-server", "runner", "scheduler", "airflow-dag-processor",
                                  "airflow-triggerer", "nginx"])  # fmt: skip
def test_a_killed_service_comes_back(server, unit):
    kill(server, server.unit(unit) if unit in ("api-server", "runner", "scheduler") else unit)


def test_where_the_database_is_killed_all_that_use_it_come_back(server):
    killed = server.sql("SELECT now()")
    kill(server, "postgresql@17-main")
    server.wait_for_heartbeats(since=killed)


def test_if_the_new_unit_cannot_start_the_old_one_stays(server):
    old, broken = server.unit("scheduler"), "/run/systemd/system/airflow-scheduler@.service.d"
    server.run(f"mkdir -p {broken} && printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\n' > {broken}/broken.conf")
    try:
        *_, last, code = server.run("systemctl daemon-reload; airflow-restart scheduler 2>&1; echo $?").splitlines()
    finally:
        server.run(f"rm -r {broken} && systemctl daemon-reload")
    assert code == "1" and re.match(rf"airflow-scheduler@[ab].service did not start, {old} goes on", last)
    assert server.unit("scheduler") == old
    assert "has taken over" in server.run("airflow-restart scheduler")


@pytest.mark.long
def test_everything_restarts(server):
    # A unit that an earlier restart retired may still be stopping.
    active = "systemctl list-units --state=active --plain --no-legend 'airflow-*.service' | cut -d' ' -f1"
    main_processes = f"systemctl show -p MainPID --value $({active})"
    before = set(server.run(main_processes).split())
    server.run("systemctl restart airflow.target")
    server.wait_until_healthy()
    assert not set(server.run(main_processes).split()) & before - {"0"}
    server.play("check.yml")


@pytest.mark.long
def test_nothing_starts_on_a_database_of_another_version(server):
    version = server.sql("SELECT version_num FROM alembic_version")
    server.sql("UPDATE alembic_version SET version_num = 'older'")
    try:
        server.run("systemctl restart --no-block airflow-triggerer")
        state = "systemctl show -p ActiveState -p SubState --value airflow-triggerer"
        wait_until(lambda: server.run(state).split() == ["activating", "start-pre"], 30, lambda: server.run(state))
        assert "FAIL  database" in server.play("check.yml", succeeds=False).output
        assert server.run(state).split()[0] == "activating"
    finally:
        server.sql(f"UPDATE alembic_version SET version_num = '{version}'")
    wait_until(lambda: server.run(state).split() == ["active", "running"], 30, lambda: server.run(state))
