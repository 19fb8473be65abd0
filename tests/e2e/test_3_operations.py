"""Drift, faults, wrong input and a reboot on Debian 13."""

from __future__ import annotations

import ssl
import time

import pytest

from tests.e2e.conftest import ROOT

UNITS = "/etc/systemd/system"
SSHD = "/etc/ssh/sshd_config.d/10-airstrip.conf"
DRIFTS = {
    "a unit edited": f"sed -i 's/KillMode=mixed/KillMode=process/' {UNITS}/airflow-.service.d/common.conf",
    "a unit removed": f"rm {UNITS}/airflow-triggerer.service",
    "an option of airflow.cfg edited": "sed -i 's/^parallelism = .*/parallelism = 99/' /etc/airflow/airflow.cfg",
    "a secret's mode": "chmod 0644 /etc/airflow/secrets/fernet_key",
    "a directory's owner": "chown nobody /var/log/airflow",
    "a stopped service": "systemctl stop airflow-dag-processor",
    "a disabled service": "systemctl disable airflow-scheduler@a airflow-scheduler@b",
    "a changed pg_hba": "sed -i 's/scram-sha-256/trust/' /etc/postgresql/17/main/pg_hba.conf",
    "a changed site": "sed -i 's/return 404/return 200/' /etc/nginx/conf.d/airflow.conf",
    "a DAG edited on the host": "echo '# edited' >> /srv/airflow/current/dags/twitter_dag.py",
    "a package of the virtualenv removed": "cd /opt/airflow && uv-*/bin/uv pip uninstall -q -p venv/bin/python tweepy",
    "sshd allows passwords": f"sed -i 's/PasswordAuthentication no/PasswordAuthentication yes/' {SSHD}",
    "the database's owner is a superuser": "runuser -u postgres -- psql -qc 'ALTER ROLE airflow SUPERUSER'",
}


def test_every_drift_is_found_and_repaired(server):
    for command in DRIFTS.values():
        server.run(command)
    sick = server.play("check.yml", succeeds=False).output
    assert "FAIL  units" in sick and "sudo systemctl start airflow-dag-processor.service" in sick
    assert "FAIL  secrets" in sick
    repaired = server.play("site.yml", "--diff")
    for trace in ("KillMode=mixed", "airflow-triggerer", "parallelism", "scram-sha-256", "return 404", "# edited",
                  "PasswordAuthentication no"):  # fmt: skip
        assert trace in repaired.output, f"--diff does not show {trace}"
    facts = {
        "grep -c KillMode=mixed /etc/systemd/system/airflow-.service.d/common.conf": "1",
        "systemctl is-active airflow-triggerer": "active",
        "grep -c '^parallelism = 99' /etc/airflow/airflow.cfg || true": "0",
        "stat -c %a /etc/airflow/secrets/fernet_key": "600",
        "stat -c %U /var/log/airflow": "root",
        "systemctl is-active airflow-dag-processor": "active",
        "systemctl is-enabled airflow-scheduler@a airflow-scheduler@b | grep -xc enabled": "1",
        "grep -c trust /etc/postgresql/17/main/pg_hba.conf || true": "0",
        "grep -c 'return 200' /etc/nginx/conf.d/airflow.conf || true": "0",
        "grep -c '# edited' /srv/airflow/current/dags/twitter_dag.py || true": "0",
        "airflow-run python -c 'import tweepy; print(1)'": "1",
        "grep -c 'PasswordAuthentication no' /etc/ssh/sshd_config.d/10-airstrip.conf": "1",
        "runuser -u postgres -- psql -Atc \"SELECT rolsuper FROM pg_roles WHERE rolname = 'airflow'\"": "f",
    }
    assert {command: server.run(command).strip() for command in facts} == facts
    assert server.play("site.yml").changed == 0
    server.play("check.yml")


def test_a_link_that_leads_nowhere_is_found_and_repaired(server):
    server.run("ln -sfn releases/none /srv/airflow/current")
    assert "releases/none" in server.play("site.yml", "--tags", "release", "--diff").output
    assert server.run("test -f /srv/airflow/current/dags/twitter_dag.py && echo there") == "there\n"


def test_a_run_that_was_cut_off_is_made_good_by_the_next(server):
    # What such a run leaves: a new file that no process has read, and a password that nobody was given.
    server.run("touch /etc/airflow/airflow.cfg && printf another-password > /etc/airflow/secrets/admin_password")
    before = server.run("systemctl show -p MainPID --value airflow-dag-processor")
    tasks = " ".join(server.play("site.yml").changed_tasks)
    assert "Run the units" in tasks and "administrator" in tasks
    assert server.run("systemctl show -p MainPID --value airflow-dag-processor") != before
    assert server.api()
    assert server.play("site.yml").changed == 0


def test_another_encryption_key_is_refused(server):
    key = "A" * 43 + "="
    refused = server.play("site.yml", "-e", f"airflow_fernet_key={key}", succeeds=False)
    assert "holds another key" in refused.output and refused.changed == 0


def test_without_a_certificate_one_is_made_and_kept(server):
    server.run("rm /etc/nginx/tls/*")
    assert server.play("site.yml", "--tags", "nginx", "-e", "nginx_certificate=self-signed").changed > 0
    assert server.play("site.yml", "--tags", "nginx", "-e", "nginx_certificate=self-signed").changed == 0
    served = ssl.get_server_certificate((server.address, 443))
    assert served.strip() in server.run("cat /etc/nginx/tls/certificate.pem")
    server.play("site.yml", "--tags", "nginx")
    assert server.session().get(f"{server.url}/api/v2/version").status_code == 200


def test_a_bad_site_is_put_back_and_nginx_goes_on(server):
    refused = server.play("site.yml", "--tags", "nginx", "-e", "nginx_client_max_body_size=lots", succeeds=False)
    assert "nginx -t said" in refused.output and "put back" in refused.output
    assert server.session().get(f"{server.url}/api/v2/version").status_code == 200


@pytest.mark.parametrize("unit", ["api-server", "scheduler", "airflow-dag-processor",
                                  "airflow-triggerer", "postgresql@17-main", "nginx"])  # fmt: skip
def test_a_killed_service_comes_back(server, unit):
    unit = server.unit(unit) if unit in ("api-server", "scheduler") else unit
    main_process = f"systemctl show -p MainPID --value {unit}"
    before = server.run(main_process)
    server.run(f"systemctl kill -s KILL {unit}")
    deadline = time.monotonic() + 90
    while server.run(main_process) in (before, "0\n") or server.run(f"systemctl is-active {unit}", False) != "active\n":
        assert time.monotonic() < deadline, server.run(f"systemctl status --no-pager {unit}", check=False)
        time.sleep(1)


BAD_INPUT = {
    "a bad type": (["-e", '{"airflow_parallelism": "many"}'], "airflow_parallelism"),
    "an unknown component": (["-e", '{"airflow_components": ["webserver"]}'], "airflow_components"),
    "a name that no environment takes": (["-e", '{"airflow_variables": {"a-b": "c"}}'], "letters, digits"),
    "a password for SSH": (["-e", "ansible_password=x"], "ssh-copy-id"),
    "a weak secret": (["-e", "airflow_admin_password=short"], "airflow_admin_password to at least 12"),
    "a malformed key": (["-e", "airflow_fernet_key=abc"], "airflow_fernet_key"),
    "a missing certificate": (["-e", "nginx_certificate_file=/nowhere.pem"], "nginx_certificate_file (/nowhere.pem)"),
    "an unknown certificate source": (["-e", "nginx_certificate=magic"], "self-signed, supplied, acme"),
    "ACME without a domain": (["-e", "nginx_certificate=acme"], "nginx_acme_email"),
    "nothing to ship": (["-e", "release_source=/nowhere"], "release_source"),
    "a connection without a type": (["-e", '{"airflow_connections": {"x": {}}}'], "conn_type"),
    "an authority that is none": (["-e", '{"base_certificate_authorities": ["x"]}'], "base_certificate_authorities"),
    "an old Airflow": (["-e", f"airflow_requirements_file={ROOT}/tests/e2e/old-requirements.txt"], "make lock"),
    "no such host": (["-e", "ansible_host=10.203.1.99", "--ssh-common-args=-o ConnectTimeout=2"], "ansible_host"),
    "a user without sudo": (["-e", "ansible_user=guest"], "sudo"),
}


@pytest.fixture(scope="module")
def guest(server):
    """A user who may log in and nothing more."""
    server.run("useradd -m guest && cp -r /home/admin/.ssh /home/guest/ && chown -R guest /home/guest/.ssh")
    yield
    server.run("userdel -rf guest", check=False)


@pytest.mark.usefixtures("guest")
@pytest.mark.parametrize(("arguments", "words"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_wrong_input_stops_before_the_first_change_and_names_the_fix(server, arguments, words):
    play = server.play("site.yml", *arguments, succeeds=False)
    assert words in " ".join(play.output.split()), play.output[-3000:]
    assert play.changed == 0


def test_another_system_is_refused(server):
    server.run(
        "cp /usr/lib/os-release /root/ && sed -i 's/Debian GNU.Linux/Ubuntu/; s/^ID=.*/ID=ubuntu/' /usr/lib/os-release"
    )
    try:
        play = server.play("site.yml", succeeds=False)
    finally:
        server.run("mv /root/os-release /usr/lib/os-release")
    assert "supports Debian 12 and 13" in " ".join(play.output.split()) and play.changed == 0


def test_after_a_reboot_everything_is_back_by_itself(server):
    booted = "systemctl show -p UserspaceTimestampMonotonic"
    before = server.run(booted)
    server.aws("ec2").reboot_instances(InstanceIds=[server.instance["InstanceId"]])
    deadline = time.monotonic() + 60
    while server.run(booted, check=False) in {before, ""}:
        assert time.monotonic() < deadline, "it did not boot"
        time.sleep(1)
    server.wait_until_healthy()
    server.play("check.yml")
    server.play("run.yml", "-e", "dag=twitter")
