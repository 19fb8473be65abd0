"""What the playbooks refuse, and what they repair: operators' keys, a lost key, a second run, a cut-off one."""

from __future__ import annotations

import json
import os
import signal
import subprocess

from tests.server import Play, wait_until


def test_only_listed_keys_log_in(server, tmp_path):
    """A second operator comes and goes, and the first keeps the key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "second"], check=True)
    mine = server.lab.private_key.with_suffix(".pub").read_text().strip()
    second = (tmp_path / "second.pub").read_text().strip()
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes"]
    ssh = ["ssh", *options, "-o", "BatchMode=yes", "-i", tmp_path / "second", f"admin@{server.address}", "true"]
    for keys, status in (([mine, second], 0), ([mine], 255)):
        server.play("site.yml", "--tags", "base", "-e", json.dumps({"base_ssh_keys": keys}))
        assert subprocess.run(ssh, capture_output=True, check=False).returncode == status


def test_a_lost_encryption_key_is_never_silently_replaced(server):
    server.run("cd /etc/airflow/secrets && mv fernet_key /root/fernet_key")
    try:
        refused = server.play("site.yml", "--tags", "airflow", succeeds=False)
        assert "put that file back (docs/recovery.md" in refused.words
        server.run("! test -e /etc/airflow/secrets/fernet_key")
    finally:
        server.run("mv /root/fernet_key /etc/airflow/secrets/fernet_key")


def test_a_second_run_is_refused_naming_the_lock_holder(server):
    first = server.begin("site.yml", "--tags", "base")
    try:
        mine = f'"process": {first.pid}'
        wait_until(lambda: mine in server.run("cat /srv/airflow/lock"), 60, "the first does not lock")
        os.kill(first.pid, signal.SIGSTOP)
        for playbook in ("site.yml", "update.yml"):
            assert "has been at the host since" in server.play(playbook, succeeds=False).words
    finally:
        os.kill(first.pid, signal.SIGCONT)
        output, _ = first.communicate()
    assert first.returncode == 0 and Play(first.returncode, output).changed == 0, output[-6000:]
    assert server.run("cat /srv/airflow/lock").strip() == ""


def test_with_the_database_down_the_doctor_checks_the_rest(server):
    server.run("systemctl stop postgresql@17-main; touch /run/reboot-required")
    try:
        said = server.play("check.yml", succeeds=False).words
    finally:
        server.run("systemctl start postgresql@17-main; rm /run/reboot-required")
        server.wait_for_heartbeats(since=server.sql("SELECT now()"))
    for line in ("FAIL database", "FAIL dags", "FAIL reboot", "ok disk", "ok tls", "ok closed paths", "ok secrets"):
        assert line in said, line
