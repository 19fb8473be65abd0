"""Instances: Debian booted by systemd-nspawn on a writable layer over the image."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from lab import disk
from lab.run import process, run, start, stop
from lab.settings import CACHE, Lab

# What systemd-nspawn exits with when the machine inside asked for a reboot.
REBOOT = 133
# In a machine: the packages that it has fetched.
FETCHED = "packages"


@dataclass(frozen=True)
class Machine:
    """What EC2 knows of an instance and its hypervisor must know: memory in bytes, the address from DHCP, its stack."""

    id: str
    suite: str
    mac: str
    memory: int
    stack: str


def folder(lab: Lab, identity: str) -> Path:
    """Where the instance lives on this machine."""
    return lab.instances / identity


def _pid_file(lab: Lab, identity: str) -> Path:
    return folder(lab, identity) / "machine.pid"


def known(lab: Lab) -> set[str]:
    """The ids of all instances that have files on this machine."""
    return {path.name for path in lab.instances.glob("i-*")}


def runs(lab: Lab, identity: str) -> bool:
    """Whether the machine is on."""
    return process(_pid_file(lab, identity)) is not None


def up(lab: Lab, machine: Machine) -> None:
    """Switch the machine on, with a new disk where it has none."""
    place = folder(lab, machine.id)
    disk.mount(lab, place, machine.suite, machine.stack)
    (place / "machine.json").write_text(json.dumps(asdict(machine)))
    start(_pid_file(lab, machine.id), [sys.executable, "-m", "lab", "machine", machine.id], lab.environment)


def _cgroups(lab: Lab, identity: str) -> list[Path]:
    """The machine's own control group in every hierarchy of this host."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [Path(words[1]) / f"{lab.name}-{identity}" for words in mounts if words[2] in ("cgroup", "cgroup2")]


def killed_for_memory(lab: Lab, identity: str) -> int:
    """How many processes the kernel ended because the machine's memory was full."""
    killed = 0
    for group in _cgroups(lab, identity):
        for file in ("memory.oom_control", "memory.events"):
            with contextlib.suppress(OSError):
                counts = dict(line.split() for line in (group / file).read_text().splitlines())
                killed += int(counts["oom_kill"])
    return killed


def _enter_cgroups(lab: Lab, machine: Machine) -> None:
    # In a shared group systemd would find, and stop, the processes of another machine's units.
    for group in _cgroups(lab, machine.id):
        group.mkdir(exist_ok=True)
        for limit in ("memory.limit_in_bytes", "memory.max"):
            with contextlib.suppress(OSError):
                (group / limit).write_text(str(machine.memory))
        # A v1 cpuset accepts no process until it has CPUs; nothing in the lab needs one.
        with contextlib.suppress(OSError):
            (group / "cgroup.procs").write_text("0")


def _plug_in(lab: Lab, machine: Machine) -> Path:
    """Give the machine a network of its own with the card that EC2 gave it; return the namespace."""
    name = f"{lab.name}-{machine.id}"
    namespace = Path("/run/netns", name)
    cable = f"h{machine.id[-10:]}"
    if not Path("/sys/class/net", cable).exists():
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        run("ip", "netns", "add", name)
        # A new machine does not route, even if this one does.
        run("ip", "netns", "exec", name, "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
        card = ["name", "ens5", "address", machine.mac, "netns", name]
        run("ip", "link", "add", cable, "type", "veth", "peer", *card)
        run("ip", "link", "set", cable, "master", lab.bridge, "up")
        # The instances reach only the router, which forwards what their security groups admit.
        run("ip", "link", "set", cable, "type", "bridge_slave", "isolated", "on")
    return namespace


def _packages(suite: str) -> Path:
    """Where packages fetched by machines of a suite are."""
    return CACHE / "apt" / suite


def _share_packages(place: Path) -> None:
    """Let the next machines find what this one has fetched."""
    for package in (place / FETCHED).glob("*.deb"):
        shared = _packages(json.loads((place / "machine.json").read_text())["suite"])
        # Atomic, even for concurrent readers.
        copy = shutil.copy2(package, shared / f".{place.name}-{package.name}")
        os.replace(copy, shared / package.name)


def boot(lab: Lab, identity: str) -> int:
    """Run the machine in the foreground, through its reboots, until it powers off."""
    machine = Machine(**json.loads((folder(lab, identity) / "machine.json").read_text()))
    _enter_cgroups(lab, machine)
    packages, uv = _packages(machine.suite), CACHE / "uv" / machine.suite
    # A layer over the packages that all machines share: apt does not wait for another machine's lock there.
    fetched = folder(lab, identity) / FETCHED
    for path in (packages, uv, fetched):
        path.mkdir(parents=True, exist_ok=True)
    propagate = Path("/run/systemd/nspawn")
    propagate.mkdir(parents=True, exist_ok=True)
    if not os.path.ismount(propagate):
        run("mount", "-t", "tmpfs", "tmpfs", propagate)
    child: subprocess.Popen | None = None
    stopping = False

    def power_off(*_: object) -> None:
        nonlocal stopping
        stopping = True
        if child:
            child.send_signal(signal.SIGTERM)

    def reboot(*_: object) -> None:
        # The machine's systemd takes this as Ctrl-Alt-Del.
        for first in psutil.Process(child.pid).children() if child else []:
            first.send_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, power_off)
    signal.signal(signal.SIGHUP, reboot)
    # The network is the machine's own, so its kernel settings are too.
    environment = {**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
    code = REBOOT
    while code == REBOOT and not stopping:
        command = [
            *["systemd-nspawn", "--quiet", f"--directory={folder(lab, identity) / 'root'}", "--boot"],
            *["--register=no", "--keep-unit", "--resolv-conf=off", "--console=pipe", "--link-journal=no"],
            *[f"--network-namespace-path={_plug_in(lab, machine)}", "--capability=CAP_NET_ADMIN"],
            # Landlock is for everybody on a real machine.
            "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self",
            f"--machine={lab.name}-{identity}",
            *[f"--overlay={packages}:{fetched}:/var/cache/apt/archives", f"--bind={uv}:/var/cache/uv"],
        ]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
        if stopping:
            child.send_signal(signal.SIGTERM)
        code = child.wait()
    return code


def reboot(lab: Lab, identity: str) -> None:
    """Press the machine's reset button."""
    supervisor = process(_pid_file(lab, identity))
    if supervisor:
        supervisor.send_signal(signal.SIGHUP)


def power_off(lab: Lab, identity: str) -> None:
    """Stop the machine; what it wrote stays."""
    stop(_pid_file(lab, identity))


def down(lab: Lab, identity: str) -> None:
    """Kill the machine without a clean shutdown, and delete all it wrote."""
    stop(_pid_file(lab, identity), seconds=0)
    _share_packages(folder(lab, identity))
    disk.unmount(folder(lab, identity))
    subprocess.run(["ip", "netns", "delete", f"{lab.name}-{identity}"], capture_output=True, check=False)
    for group in _cgroups(lab, identity):
        for path, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(path)
    shutil.rmtree(folder(lab, identity), ignore_errors=True)
