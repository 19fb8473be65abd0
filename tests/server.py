"""A machine of the lab, used as an operator uses it."""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import requests

from lab import __main__ as commands
from lab import inventory, services
from lab.settings import Lab, LabError

ROOT = Path(__file__).parents[1]
ARTEFACTS = ROOT / "build" / "e2e"
T = TypeVar("T")
# How many times slower a machine may be, with others beside it, before a wait fails.
SLOWEST = 3


def wait_until(probe: Callable[[], T], seconds: float, problem: Callable[[], Any] | str = "", every: float = 0.5) -> T:
    """Ask until the answer is true and return it; fail with the problem and the last answer where none comes.

    The seconds say when to give up, and are many times what it takes on a machine that is not slow.
    """
    seconds *= SLOWEST
    deadline = time.monotonic() + seconds
    while not (answer := probe()):
        text = problem() if callable(problem) else problem
        assert time.monotonic() < deadline, f"{text or probe}: still {answer!r} after {seconds:.0f} s"
        time.sleep(every)
    return answer


def by_way_of_mitogen() -> dict[str, str]:
    """The environment in which ansible-playbook keeps a Python on the host, by way of Mitogen, and not one a task."""
    import ansible_mitogen

    plugins = Path(ansible_mitogen.__file__).parent / "plugins" / "strategy"
    # It knows no "accept-new" of a machine's first key.
    unknown = {"ANSIBLE_HOST_KEY_CHECKING": "false"}
    return {"ANSIBLE_STRATEGY_PLUGINS": str(plugins), "ANSIBLE_STRATEGY": "mitogen_linear", **unknown}


@dataclass
class Play:
    """What a run of ansible-playbook said."""

    code: int
    output: str

    @property
    def words(self) -> str:
        """The output in one line, to undo Ansible's wrapping."""
        return " ".join(self.output.split())

    @property
    def refusals(self) -> dict[str, str]:
        """All that was said of each host that failed, in one line."""
        said: dict[str, str] = {}
        for block in re.split(r"\n(?=fatal: |failed: |TASK|PLAY)", self.output):
            if host := re.match(r"(?:fatal|failed): \[([^\]]+)\]", block):
                said[host[1]] = " ".join([said.get(host[1], ""), *block[host.end() :].split()])
        return said

    @property
    def changed(self) -> int:
        return sum(map(int, re.findall(r"changed=(\d+)", self.output)))

    @property
    def changed_tasks(self) -> list[str]:
        blocks = re.split(r"\n(?=TASK|RUNNING HANDLER|PLAY)", self.output)
        return [block.splitlines()[0].rstrip(" *") for block in blocks if re.search(r"^changed: ", block, re.M)]


class Server:
    """One machine of the lab; `settings` are variables of its inventory."""

    def __init__(self, lab: Lab, stack: str, **settings: str) -> None:
        self.lab, self.stack = lab, stack
        # How Ansible itself runs where a playbook is played to its end.
        self.ansible: dict[str, str] = {}
        self.clients: dict[str, Any] = {}
        self.inventory = inventory.write(lab, stack, **settings)
        self.artefacts = ARTEFACTS / lab.name
        self.artefacts.mkdir(parents=True, exist_ok=True)

    @property
    def instance(self) -> dict:
        """What EC2 says of it."""
        return services.aws.instance(self.lab, self.stack)

    @property
    def runs(self) -> bool:
        try:
            return bool(self.instance)
        except LabError:
            return False

    @cached_property
    def address(self) -> str:
        return self.instance["PublicIpAddress"]

    @cached_property
    def ssh(self) -> list[str]:
        """The ssh command that reaches it, over one connection for all that is asked."""
        first, *rest = commands.ssh(self.lab, self.stack)
        shared = ["ControlMaster=auto", "ControlPersist=60", f"ControlPath={self.lab.state}/ssh-%C"]
        return [first, *[word for option in shared for word in ("-o", option)], *rest]

    def lose(self) -> None:
        """End the machine for good, its disk with it."""
        identity = self.instance["InstanceId"]
        self.aws("ec2").modify_instance_attribute(InstanceId=identity, DisableApiTermination={"Value": False})
        self.aws("ec2").terminate_instances(InstanceIds=[identity])
        self.forget()

    def forget(self) -> None:
        """Forget the machine that was there: another replaces it."""
        for name in ("address", "ssh", "logged_in"):
            self.__dict__.pop(name, None)

    @property
    def url(self) -> str:
        return f"https://{self.address}"

    def aws(self, service: str):
        """The account owner's client."""
        if service not in self.clients:
            self.clients[service] = services.aws.client(self.lab, service)
        return self.clients[service]

    def play(self, playbook: str | Path, *arguments: str, succeeds: bool = True) -> Play:
        """Run a playbook with the very command of the README."""
        began = time.monotonic()
        process = self.begin(playbook, *arguments, environment=self.ansible)
        output, _ = process.communicate()
        play = Play(process.returncode, output)
        with (self.artefacts / f"{self.stack}.log").open("a") as log:
            log.write(f"$ {shlex.join(process.args)}\n{play.output}\nIt took {time.monotonic() - began:.0f} s.\n\n")
        assert (play.code == 0) == succeeds, play.output[-6000:]
        return play

    def begin(
        self, playbook: str | Path, *arguments: str, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Begin to run a playbook, in a process group of its own."""
        command = ["ansible-playbook", "-i", str(self.inventory), str(Path("playbooks", playbook)), *arguments]
        environment = {**services.aws.operator_environment(self.lab), **(environment or {}), "ANSIBLE_NOCOLOR": "1"}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, process_group=0, **streams)

    def answers(self, port: int) -> bool:
        """Whether something listens there, as seen from outside."""
        with contextlib.suppress(OSError), socket.create_connection((self.address, port), 3):
            return True
        return False

    def unit(self, component: str) -> str:
        """Which of a pair runs, as soon as one does."""
        units = f"systemctl list-units --plain --no-legend --state=active 'airflow-{component}@*.service'"
        return wait_until(lambda: self.run(units).split(), 90, f"no {component} runs")[0]

    def run(self, command: str, check: bool = True, stdin: str | None = None) -> str:
        """Run a shell command on the machine as root."""
        ssh = [*self.ssh, "sudo", "bash", "-c", shlex.quote(command)]
        result = subprocess.run(ssh, input=stdin or "", text=True, errors="replace", capture_output=True, check=False)
        assert not check or result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout

    def sql(self, query: str, database: str = "airflow") -> str:
        """Ask the host's PostgreSQL; columns have | between them."""
        return self.run(f'runuser -u postgres -- psql -qtAc "{query}" {database}').strip()

    @property
    def password(self) -> str:
        return self.run("cat /etc/airflow/secrets/admin_password")

    def healthy(self) -> bool:
        """Whether each component of Airflow says so."""
        with contextlib.suppress(OSError, ValueError):
            health = self.session().get(f"{self.url}/api/v2/monitor/health", timeout=5).json()
            return {component["status"] for component in health.values()} == {"healthy"}
        return False

    def wait_for_heartbeats(self, since: str) -> None:
        """Wait until all that use the database have sent a heartbeat since a moment of its clock, and are healthy.

        While it is away they end, and Airflow calls them healthy for half a minute more.
        """
        jobs = f"SELECT count(DISTINCT job_type) FROM job WHERE state = 'running' AND latest_heartbeat > '{since}'"
        wait_until(lambda: self.sql(jobs) == "3", 90, "scheduler, DAG processor and triggerer send no heartbeat")
        self.wait_until_healthy()

    def wait_until_healthy(self) -> None:
        """Wait until each component of Airflow says so, as after a boot."""
        wait_until(self.healthy, 180, "Airflow is not healthy", every=2)

    def session(self) -> requests.Session:
        """A client that trusts the lab's authority and nobody else."""
        session = requests.Session()
        # The environment's own bundle would win over `verify`.
        session.trust_env = False
        session.verify = str(services.certificates.authority(self.lab))
        return session

    def api(self) -> requests.Session:
        """A client that has logged in."""
        session = self.session()
        login = {"username": "admin", "password": self.password}
        answer = session.post(f"{self.url}/auth/token", json=login)
        assert answer.status_code == 201, answer.text
        session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return session

    @cached_property
    def logged_in(self) -> requests.Session:
        """One login for all that is asked: nginx lets few a minute in."""
        return self.api()
