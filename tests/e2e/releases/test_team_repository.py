"""A team's own repository, whose CI job pushes: the example's own files and shell steps."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e import team
from tests.e2e.load import git
from tests.e2e.team import deploy, list_keys
from tests.e2e.updates import live


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    return team.repository(tmp_path_factory.mktemp("team") / "repository")


@pytest.fixture(scope="module")
def key(tmp_path_factory) -> Path:
    return team.key(tmp_path_factory.mktemp("key"))


def ssh(server, key: Path, *arguments: str, command: str = "") -> subprocess.CompletedProcess:
    trusting = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]
    words = ["ssh", "-i", str(key), *trusting, *arguments, f"airstrip-deploy@{server.address}", command]
    words = [word for word in words if word]
    return subprocess.run(words, text=True, capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=60)


def test_an_invalid_key_is_refused(server):
    assert "ssh-keygen -t ed25519" in list_keys(server, succeeds=False, ci="ssh-rsa AAAA").words


def test_a_push_makes_a_commit_live(server, repository, key):
    listed = {"ci": team.public(key)}
    assert list_keys(server, **listed).changed and not list_keys(server, **listed).changed
    pushed = deploy(server, repository, key)
    assert pushed.returncode == 0 and "is live after" in pushed.stderr, pushed.stderr
    assert live(server).endswith(git(repository, "rev-parse", "--short=12", "HEAD")) and live(server) in pushed.stderr
    dag = server.logged_in.get(f"{server.url}/api/v2/dags/hello").json()
    assert dag["bundle_version"] == live(server)
    assert "push" in server.play("history.yml").words and "nothing to do" in deploy(server, repository, key).stderr


def test_a_broken_commit_fails_the_job_with_file_and_line(server, repository, key):
    before = live(server)
    (repository / "dags" / "wrong.py").write_text("# airflow DAG\n1 / 0\n")
    team.commit(repository)
    pushed = deploy(server, repository, key)
    assert pushed.returncode and "dags/wrong.py:2: ZeroDivisionError" in pushed.stderr, pushed.stderr
    assert f"{before} stays live" in pushed.stderr and live(server) == before
    git(repository, "rm", "--quiet", "dags/wrong.py")


def test_a_key_can_do_nothing_else(server, key):
    before, folders = live(server), server.run("ls /srv/airflow/releases")
    assert ssh(server, key, "-tt").returncode
    server.run("rm -f /srv/airflow/pushed")
    assert ssh(server, key).returncode
    asked = ssh(server, key, command="id; cat /etc/passwd")
    assert asked.returncode and "uid=" not in asked.stdout and "root:" not in asked.stdout
    assert ssh(server, key, "-s", command="sftp").returncode
    tunnel = ssh(server, key, "-W", "127.0.0.1:22")
    assert tunnel.returncode and "SSH-2.0" not in tunnel.stdout
    for command in ("sudo --non-interactive id", "cat /etc/airflow/secrets/jwt_secret", "ls /srv/airflow/releases"):
        assert server.run(f"sudo -u airstrip-deploy {command} > /dev/null 2>&1 || echo no") == "no\n", command
    assert live(server) == before and server.run("ls /srv/airflow/releases") == folders


def test_a_key_that_is_not_listed_opens_nothing(server, repository, key):
    assert list_keys(server).changed and not list_keys(server).changed
    refused = deploy(server, repository, key)
    assert refused.returncode and "Permission denied" in refused.stderr
    assert server.run("ls /etc/sudoers.d /usr/local/sbin /etc/ssh").count("airstrip-push") == 0


@pytest.mark.long
def test_the_projects_own_code_is_live_again(server):
    server.play("site.yml")
    assert "twitter_dag.py" in server.run("ls /srv/airflow/current/dags")
    assert server.sql("SELECT is_stale FROM dag WHERE dag_id = 'hello'") == "t"
