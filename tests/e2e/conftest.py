"""A lab of the tests' own, and one machine in it for the whole story."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import requests

from lab import __main__ as commands
from lab import instance as machines
from lab import inventory, services
from lab.settings import Instance, Lab

ROOT = Path(__file__).parents[2]
ARTEFACTS = ROOT / "build" / "e2e"


@dataclass
class Play:
    """What a run of ansible-playbook said."""

    code: int
    output: str

    @property
    def changed(self) -> int:
        return int(re.search(r"changed=(\d+)", self.output)[1])

    @property
    def changed_tasks(self) -> list[str]:
        blocks = re.split(r"\n(?=TASK|RUNNING HANDLER|PLAY)", self.output)
        return [block.splitlines()[0] for block in blocks if re.search(r"^changed: ", block, re.M)]


class Server:
    """One machine of the lab, used as an operator uses it."""

    def __init__(self, lab: Lab, instance: Instance) -> None:
        self.lab, self.instance = lab, instance
        self.url = f"https://{instance.address}"

    def play(self, playbook: str, *arguments: str, succeeds: bool = True) -> Play:
        """Run a playbook with the very command of the README."""
        where = ["-i", str(inventory.path(self.lab, self.instance))]
        command = ["ansible-playbook", *where, f"playbooks/{playbook}", *arguments]
        environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
        result = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
        play = Play(result.returncode, result.stdout + result.stderr)
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        with (ARTEFACTS / f"{self.instance.name}.log").open("a") as log:
            log.write(f"$ {shlex.join(command)}\n{play.output}\n")
        assert (play.code == 0) == succeeds, play.output[-6000:]
        return play

    def run(self, command: str, check: bool = True) -> str:
        """Run a shell command on the machine as root."""
        ssh = [*machines.ssh(self.lab, self.instance), "sudo", "bash", "-c", shlex.quote(command)]
        result = subprocess.run(ssh, text=True, errors="replace", capture_output=True, check=False)
        assert not check or result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout

    @property
    def password(self) -> str:
        return self.run("cat /etc/airflow/secrets/admin_password")

    def session(self) -> requests.Session:
        """A client that trusts the lab's authority and nobody else."""
        session = requests.Session()
        # The environment's own bundle would win over `verify`.
        session.trust_env = False
        session.verify = str(services.authority(self.lab))
        return session

    def api(self) -> requests.Session:
        """A client that has logged in."""
        session = self.session()
        login = {"username": "admin", "password": self.password}
        answer = session.post(f"{self.url}/auth/token", json=login)
        assert answer.status_code == 201, answer.text
        session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return session


@pytest.fixture(scope="session")
def lab():
    """Fresh machines; with KEEP_LAB=1 those of the last run, which stay up for the next."""
    lab = Lab("striptest", IPv4Network("10.203.1.0/24"), ("trixie", "bookworm"))
    keep = os.environ.get("KEEP_LAB")
    if not keep:
        commands.down(lab)
    commands.up(lab)
    yield lab
    if not keep:
        commands.down(lab)


@pytest.fixture(scope="session")
def server(lab) -> Server:
    """The Debian 13 machine, deployed to from nothing."""
    server = Server(lab, machines.named(lab, "debian13"))
    # A look before the first change must work where nothing is installed yet.
    server.play("site.yml", "--check", "--diff")
    server.play("site.yml")
    return server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Keep the journal of every machine that a failed test used."""
    report = yield
    if report.failed:
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Server):
                journal = value.run("journalctl --no-pager -b -n 3000", check=False)
                (ARTEFACTS / f"{item.name}-{value.instance.name}.journal").write_text(journal)
    return report
