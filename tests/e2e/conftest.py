"""A lab of the tests' own, and one machine of its EC2 for the whole story."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import time
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import requests

from lab import __main__ as commands
from lab import inventory, services
from lab.settings import Lab, LabError

ROOT = Path(__file__).parents[2]
ARTEFACTS = ROOT / "build" / "e2e"


@dataclass
class Play:
    """What a run of ansible-playbook said."""

    code: int
    output: str

    @property
    def changed(self) -> int:
        return sum(map(int, re.findall(r"changed=(\d+)", self.output)))

    @property
    def changed_tasks(self) -> list[str]:
        blocks = re.split(r"\n(?=TASK|RUNNING HANDLER|PLAY)", self.output)
        return [block.splitlines()[0].rstrip(" *") for block in blocks if re.search(r"^changed: ", block, re.M)]


class Server:
    """One machine of the lab, used as an operator uses it; `settings` are variables of its inventory."""

    def __init__(self, lab: Lab, stack: str, **settings: str) -> None:
        self.lab, self.stack = lab, stack
        self.inventory = inventory.write(lab, stack, **settings)

    @property
    def instance(self) -> dict:
        """What EC2 says of it."""
        return services.instance(self.lab, self.stack)

    @property
    def runs(self) -> bool:
        try:
            return bool(self.instance)
        except LabError:
            return False

    @cached_property
    def address(self) -> str:
        return self.instance["PublicIpAddress"]

    @property
    def url(self) -> str:
        return f"https://{self.address}"

    def aws(self, service: str):
        """The account owner's client."""
        return services.client(self.lab, service)

    def play(self, playbook: str, *arguments: str, succeeds: bool = True) -> Play:
        """Run a playbook with the very command of the README."""
        process = self.begin(playbook, *arguments)
        output, _ = process.communicate()
        play = Play(process.returncode, output)
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        with (ARTEFACTS / f"{self.stack}.log").open("a") as log:
            log.write(f"$ {shlex.join(process.args)}\n{play.output}\n")
        assert (play.code == 0) == succeeds, play.output[-6000:]
        return play

    def begin(self, playbook: str, *arguments: str) -> subprocess.Popen[str]:
        """Begin to run a playbook, in a process group of its own."""
        command = ["ansible-playbook", "-i", str(self.inventory), f"playbooks/{playbook}", *arguments]
        environment = {**services.operator_environment(self.lab), "ANSIBLE_NOCOLOR": "1"}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, process_group=0, **streams)

    def unit(self, component: str) -> str:
        """Which of a pair runs."""
        units = f"'airflow-{component}@*.service'"
        return self.run(f"systemctl list-units --plain --no-legend --state=active {units}").split()[0]

    def run(self, command: str, check: bool = True) -> str:
        """Run a shell command on the machine as root."""
        ssh = [*commands.ssh(self.lab, self.stack), "sudo", "bash", "-c", shlex.quote(command)]
        result = subprocess.run(ssh, text=True, errors="replace", capture_output=True, check=False)
        assert not check or result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout

    @property
    def password(self) -> str:
        return self.run("cat /etc/airflow/secrets/admin_password")

    def wait_until_healthy(self) -> None:
        """Wait until each component of Airflow says so, as after a boot."""
        deadline = time.monotonic() + 180
        while True:
            with contextlib.suppress(OSError, ValueError):
                health = self.session().get(f"{self.url}/api/v2/monitor/health", timeout=5).json()
                if {component["status"] for component in health.values()} == {"healthy"}:
                    return
            assert time.monotonic() < deadline, "not healthy in 3 minutes"
            time.sleep(2)

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
    lab = Lab("striptest", IPv4Network("10.203.1.0/24"))
    keep = os.environ.get("KEEP_LAB")
    if not keep:
        commands.down(lab)
    commands.up(lab)
    yield lab
    if not keep:
        commands.down(lab)


@pytest.fixture(scope="session")
def server(lab) -> Server:
    """The Debian 13 machine, made on EC2 and deployed to from nothing."""
    server = Server(lab, "debian13", nginx_commit_url="https://git.example.com/commit/{commit}")
    server.play("provision.yml")
    # A look before the first change must work where nothing is installed yet.
    server.play("site.yml", "--check", "--diff")
    server.play("site.yml")
    return server


@pytest.fixture(scope="session")
def machine(lab) -> Server:
    """A Debian 12 machine of another installation in the same account, whose warehouse is BigQuery."""
    services.bigquery(lab)
    machine = Server(lab, "debian12", warehouse="bigquery", aws_debian_release="12", aws_bucket="airstrip-other")
    machine.play("provision.yml")
    return machine


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Keep the journal of every machine that a failed test used."""
    report = yield
    if report.failed:
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        for value in getattr(item, "funcargs", {}).values():
            # A machine that is off has nothing to say.
            if isinstance(value, Server) and value.runs:
                journal = value.run("journalctl --no-pager -b -n 3000", check=False)
                (ARTEFACTS / f"{item.name}-{value.stack}.journal").write_text(journal)
    return report
