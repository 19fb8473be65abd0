"""Wrong input is refused on Debian 13 before the first change."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.server import ROOT, Play

# What an inventory sets wrongly, and what names the fix.
BAD_INPUT = {
    "a-bad-type": ({"airflow_parallelism": "many"}, "airflow_parallelism"),
    "an-unknown-component": ({"airflow_components": ["webserver"]}, "airflow_components"),
    "a-name-that-no-environment-takes": ({"airflow_variables": {"a-b": "c"}}, "letters, digits"),
    "a-password-for-SSH": ({"ansible_password": "x"}, "ssh-copy-id"),
    "a-weak-secret": ({"airflow_admin_password": "short"}, "airflow_admin_password to at least 12"),
    "a-weak-key-of-backups": ({"backup_bucket": "kept", "backup_key": "short"}, "openssl rand -hex 32"),
    "keys-that-are-none": ({"base_ssh_keys": ["a"]}, "nobody could log in any more"),
    "a-malformed-key": ({"airflow_fernet_key": "abc"}, "airflow_fernet_key"),
    "a-missing-certificate": ({"nginx_certificate_file": "/nowhere.pem"}, "nginx_certificate_file (/nowhere.pem)"),
    "an-unknown-certificate-source": ({"nginx_certificate": "magic"}, "self-signed, supplied, acme"),
    "ACME-without-a-domain": ({"nginx_certificate": "acme"}, "nginx_acme_email"),
    "nothing-to-ship": ({"release_source": "/nowhere"}, "release_source"),
    "a-connection-without-a-type": ({"airflow_connections": {"x": {}}}, "conn_type"),
    "an-authority-that-is-none": ({"base_certificate_authorities": ["x"]}, "base_certificate_authorities"),
    "a-task-that-gives-up-at-once": ({"airflow_task_max_failed_heartbeats": 3}, "make that at least 180"),
    "a-secret-for-all-to-read": ({"airflow_configuration": {"smtp": {"smtp_password": "x"}}}, "smtp_default"),
    "an-old-Airflow": ({"airflow_requirements_file": f"{ROOT}/tests/e2e/old-requirements.txt"}, "make lock"),
    "no-such-host": ({"ansible_host": "127.0.0.9", "ansible_ssh_timeout": 2}, "ansible_host"),
    "a-user-without-sudo": ({"ansible_user": "guest"}, "sudo"),
}


@pytest.fixture(scope="module")
def guest(server):
    """A user who may log in and nothing more."""
    server.run("useradd -m guest && cp -r /home/admin/.ssh /home/guest/ && chown -R guest /home/guest/.ssh")
    yield
    server.run("userdel -rf guest", check=False)


@pytest.fixture(scope="module")
def refused(server, guest, tmp_path_factory) -> Play:
    """What the checks of site.yml say to bad input, in one run: each is a host, and all are this machine."""
    plays = yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text())
    (play,) = (play for play in plays if play["name"].startswith("Check the host and the input"))
    # Not that there is one host alone, and nothing that changes it; the roles' defaults count.
    beside = ("Check what postgresql", "Send the host's", "Keep other runs")
    for task in play["tasks"]:
        if task["name"].startswith(beside):
            task["when"] = False
    play["hosts"] = "refused"
    project = tmp_path_factory.mktemp("refused")
    (project / "playbooks").mkdir()
    for name in ("roles", "playbooks/group_vars", "playbooks/tasks"):
        (project / name).symlink_to(ROOT / name)
    playbook = project / "playbooks" / "refused.yml"
    playbook.write_text(yaml.safe_dump([play], sort_keys=False))
    alias = f"-o StrictHostKeyChecking=accept-new -o HostKeyAlias={server.instance['InstanceId']}"
    known = {"ansible_host": server.address, "ansible_user": "admin", "ansible_ssh_common_args": alias}
    hosts = {name: known | variables for name, (variables, _) in BAD_INPUT.items()}
    inventory = project / "hosts.yml"
    inventory.write_text(json.dumps({"refused": {"hosts": hosts}, "airstrip": {"children": {"refused": {}}}}))
    return server.play(playbook, "-i", str(inventory), succeeds=False)


@pytest.mark.parametrize(("host", "words"), [(host, words) for host, (_, words) in BAD_INPUT.items()], ids=BAD_INPUT)
def test_wrong_input_stops_before_the_first_change_and_names_the_fix(refused, host, words):
    assert words in refused.refusals[host], refused.output[-6000:]
    assert refused.changed == 0


def test_another_system_is_refused(server):
    server.run(
        "cp /usr/lib/os-release /root/ && sed -i 's/Debian GNU.Linux/Ubuntu/; s/^ID=.*/ID=ubuntu/' /usr/lib/os-release"
    )
    try:
        play = server.play("site.yml", succeeds=False)
    finally:
        server.run("mv /root/os-release /usr/lib/os-release")
    assert "supports Debian 12 and 13" in play.words and play.changed == 0
