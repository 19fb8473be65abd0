"""A team's own repository, made of the example, and the key of its CI job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from tests.e2e.load import git
from tests.server import ROOT, Play, Server


def repository(folder: Path) -> Path:
    """The example, committed."""
    shutil.copytree(ROOT / "examples/dags-repository", folder, ignore=shutil.ignore_patterns("__pycache__"))
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def key(folder: Path) -> Path:
    """A new key without a passphrase; its public half is beside it."""
    file = folder / "deploy_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return file


def public(key: Path) -> str:
    return key.with_suffix(".pub").read_text().strip()


def commit(repository: Path) -> str:
    """Commit what has changed; return the name of the commit, as a release has it."""
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message=A change")
    return git(repository, "rev-parse", "--short=12", "HEAD")


def list_keys(server: Server, succeeds: bool = True, **listed: str) -> Play:
    """Let these keys in, and no other."""
    return server.play("deploy_keys.yml", "-e", json.dumps({"release_deploy_keys": listed}), succeeds=succeeds)


def deploy(server: Server, repository: Path, key: Path) -> subprocess.CompletedProcess:
    """Run what the job runs, as if the last push were long ago."""
    server.run("rm -f /srv/airflow/pushed")
    known = {"AIRSTRIP_HOST_KEY": server.run("cat /etc/ssh/ssh_host_ed25519_key.pub")}
    environment = {**os.environ, **known, "AIRSTRIP_HOST": server.address, "AIRSTRIP_KEY": str(key)}
    command = ["./deploy.sh"]
    return subprocess.run(command, cwd=repository, env=environment, text=True, capture_output=True, check=False)
