"""Each group of tests (a folder) has a lab and machines of its own, or another group's, and leaves nothing behind.

Machines start from a host that was deployed to once: the installation's, which is kept under the hash of what made it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from lab import __main__ as commands
from lab import disk, image
from lab import instance as machines
from lab.run import locked
from lab.settings import STATE, Lab, LabError
from tests.conftest import lane
from tests.e2e import load
from tests.server import ROOT, Play, Server, by_way_of_mitogen, wait_until

KEEP_LAB = bool(os.environ.get("KEEP_LAB"))
GROUPS = sorted({path.parent.name for path in Path(__file__).parent.glob("*/test_*.py")})
# What a deployed host is made from, beside Debian's image.
SOURCES = (
    "roles",
    "playbooks",
    "inventory",
    "dags",
    "etl",
    "ansible.cfg",
    "requirements.txt",
    "lab/inventory.py",
    "lab/templates/inventory.yml.j2",
)


class Place:
    """The lab of the group that runs, and its servers."""

    def __init__(self) -> None:
        self.lab: Lab | None = None
        self.plain = True
        self.held = contextlib.ExitStack()
        self.servers: list[Server] = []
        self._deployed: dict[str, Server] = {}

    def enter(self, group: str) -> Lab:
        """Open the lab of a group, with nothing in it, and leave that of another."""
        number = GROUPS.index(group)
        lab = Lab(f"strip{number}", IPv4Network(f"10.203.{10 + number}.0/24"))
        if self.lab != lab:
            self.leave()
            self.held.enter_context(only_here(lab))
            # There Ansible runs as it comes; elsewhere only what is cut off does.
            self.lab, self.plain = lab, group == "install"
            if not KEEP_LAB:
                commands.down(lab)
            commands.up(lab)
        return lab

    def leave(self) -> None:
        """Remove the lab; with KEEP_LAB=1 it stays up for the next run."""
        if self.lab and not KEEP_LAB:
            commands.down(self.lab)
        self.held.close()
        self.lab = None
        self.servers.clear()
        self._deployed.clear()

    def server(self, stack: str, **settings: str) -> Server:
        """A machine of the lab, which is yet to be made; its logs are kept where a test fails."""
        server = Server(self.lab, stack, **settings)
        if not self.plain:
            server.ansible = by_way_of_mitogen()
        self.servers.append(server)
        return server

    def deployed(self, stack: str, **settings: str) -> Server:
        """A Debian 13 machine with everything on it, which starts from a host that was deployed to once."""
        if stack not in self._deployed:
            server = self.server(stack, **settings)
            if not server.runs:
                disk.start_from(self.lab, stack, kept_host(self.lab))
            server.play("provision.yml")
            server.play("site.yml")
            self._deployed[stack] = server
        return self._deployed[stack]


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.leave()


@pytest.fixture(scope="module")
def lab(request, place) -> Lab:
    """The lab of the group."""
    return place.enter(lane(Path(request.path).parent.name))


@pytest.fixture(scope="module")
def server(lab, place) -> Server:
    """The group's machine, with everything on it; it leads from a release to its commit.

    On a machine busy with three others, importing pandas takes longer than an operator would accept.
    """
    commit = "https://git.example.com/commit/{commit}"
    return place.deployed("debian13", nginx_commit_url=commit, release_import_seconds="20")


def kept_host(lab: Lab) -> Path:
    """Return the host that was deployed to once; make it in this lab if there is none."""
    with one_at_a_time():
        return disk.kept(kept_name()) or install(lab)


def install(lab: Lab) -> Path:
    """Deploy to a machine from nothing, keep it, and end it."""
    server = Server(lab, "kept")
    server.play("provision.yml")
    server.play("site.yml")
    host = keep(server)
    server.play("destroy.yml", "-e", "confirm=kept", "-e", "aws_destroy_data=true")
    return host


def keep(server: Server) -> Path:
    """Stop a machine and keep it for others to start from, with Airflow off until site.yml has their settings."""
    identity = server.instance["InstanceId"]
    server.run("systemctl disable --quiet airflow.target")
    server.aws("ec2").stop_instances(InstanceIds=[identity])
    wait_until(lambda: not machines.runs(server.lab, identity), 120, "the machine does not stop")
    return disk.keep(server.lab, machines.folder(server.lab, identity), server.stack, kept_name())


def kept_name() -> str:
    """The name of the kept host that this tree makes."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *SOURCES]
    names = subprocess.run(listing, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    digest = hashlib.sha256(image.image("trixie").name.encode())
    for name in sorted(filter(None, names.split("\0"))):
        if (ROOT / name).is_file():
            digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return f"trixie-{digest.hexdigest()[:12]}"


def one_at_a_time() -> contextlib.AbstractContextManager[None]:
    """Hold the lock under which a host is kept: who comes second finds it made."""
    return locked(disk.HOSTS / "lock")


@contextlib.contextmanager
def only_here(lab: Lab) -> Iterator[None]:
    """Hold a group's lab: another run of the same tests would remove it."""
    try:
        with locked(STATE / f"{lab.name}.lock", wait=False):
            yield
    except BlockingIOError:
        raise LabError(f"another run of these tests uses the lab {lab.name}: wait for its end") from None


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A repository of a team's own."""
    return load.source(tmp_path_factory.mktemp("source"))


@pytest.fixture
def source(checkout) -> Iterator[Path]:
    """The project's DAGs and those of the load, to change at will: the next test finds them as they were."""
    yield checkout
    load.git(checkout, "reset", "--quiet", "--hard")
    load.git(checkout, "clean", "--quiet", "-dfx")


@pytest.fixture
def ship(server, source):
    """Run update.yml with the source, and return what it said."""

    def ship(*arguments: str, succeeds: bool = True, **files: str) -> Play:
        for name, text in files.items():
            (source / "etl" / f"{name}.py").write_text(text)
        return server.play("update.yml", "-e", f"release_source={source}", *arguments, succeeds=succeeds)

    return ship


@pytest.fixture
def open_security_group(server) -> Iterator[None]:
    """The security group lets everything in: what is closed now, the host itself keeps closed."""
    group = server.instance["SecurityGroups"][0]["GroupId"]
    anything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    server.aws("ec2").authorize_security_group_ingress(GroupId=group, IpPermissions=anything)
    try:
        server.run("systemd-run --quiet --unit=knocker python3 -m http.server 9")
        wait_until(lambda: server.answers(9), 60, "the security group does not open")
        server.run("systemctl stop knocker")
        yield
    finally:
        server.aws("ec2").revoke_security_group_ingress(GroupId=group, IpPermissions=anything)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium. Of the module, not the session: while it is there, no other test can have an event loop."""
    # Like every wait for a state: many times what it takes, even on a busy machine.
    expect.set_options(timeout=60_000)
    flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-quic"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
        yield browser
        browser.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """Remove a group's machines after its last test: they would keep a core busy during the next group."""
    place = item.funcargs.get("place")
    yield
    if place and (nextitem is None or lane(nextitem.path.parent.name) != lane(item.path.parent.name)):
        place.leave()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Keep what the machines of a failed test and the services of their lab said."""
    report = yield
    if report.failed:
        # Of a machine whose deployment failed too.
        place = getattr(item, "funcargs", {}).get("place")
        for server in place.servers if place else ():
            keep_logs(server, item.name)
    return report


def keep_logs(server: Server, name: str) -> None:
    """Keep a machine's journal and the lab's logs; what is missing must not hide the test's own failure."""
    # A parameter may hold a slash.
    name = re.sub(r"[^\w.,=\[\]-]", "_", name)
    try:
        journal = server.run("journalctl --no-pager -b -n 3000", check=False)
    except Exception as problem:
        journal = f"no journal: {problem!r}"
    (server.artefacts / f"{name}-{server.stack}.journal").write_text(journal)
    for log in server.lab.state.glob("*/process.log"):
        shutil.copy(log, server.artefacts / f"{name}-{log.parent.name}.log")
