"""Instances: Debian booted by systemd-nspawn on a writable layer over the image."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from lab import image, network
from lab.run import run, start, stop, wait_for
from lab.settings import CACHE, Instance, Lab, LabError

# What systemd-nspawn exits with when the machine inside asked for a reboot.
REBOOT = 133


def _folder(lab: Lab, instance: Instance) -> Path:
    return lab.state / "instances" / instance.name


def _pid_file(lab: Lab, instance: Instance) -> Path:
    return _folder(lab, instance) / "machine.pid"


def ssh(lab: Lab, instance: Instance) -> list[str]:
    """The ssh command that reaches the instance, host key checked."""
    options = [f"UserKnownHostsFile={lab.known_hosts}", "IdentitiesOnly=yes", "LogLevel=ERROR"]
    return [
        *["ssh", "-i", str(lab.private_key)],
        *[word for option in options for word in ("-o", option)],
        f"admin@{instance.address}",
    ]


def up(lab: Lab, instance: Instance) -> None:
    """Boot the instance unless it runs, and wait until it answers over SSH."""
    folder = _folder(lab, instance)
    root = folder / "root"
    if not os.path.ismount(root):
        _mount(lab, instance, root)
    start(
        _pid_file(lab, instance),
        [sys.executable, "-m", "lab", "machine", instance.name],
        {"LAB_NAME": lab.name, "LAB_SUBNET": str(lab.subnet), "LAB_SUITES": ",".join(lab.suites)},
    )

    def answers() -> bool:
        command = [*ssh(lab, instance), "systemctl is-system-running --wait >/dev/null; true"]
        command[1:1] = ["-o", "ConnectTimeout=2"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    wait_for(
        f"the instance {instance.name} ({instance.address})",
        answers,
        seconds=120,
        log=_pid_file(lab, instance).with_suffix(".log"),
    )


def _mount(lab: Lab, instance: Instance, root: Path) -> None:
    base = image.image(instance.suite)
    layer, work = root.with_name("layer"), root.with_name("work")
    for path in (layer, work, root):
        path.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "overlay", "airstrip", "-o", f"lowerdir={base},upperdir={layer},workdir={work}", root)
    if (root / "etc/hostname").exists() and (root / "etc/ssh/ssh_host_ed25519_key").exists():
        return
    hosts = f"127.0.0.1 localhost\n{instance.address} {instance.name}\n{lab.gateway} lab\n"
    resolvers = network.nameservers()
    files = {
        "etc/hostname": f"{instance.name}\n",
        "etc/hosts": hosts,
        "etc/resolv.conf": "".join(f"nameserver {address}\n" for address in resolvers),
        "etc/systemd/network/10-host0.network": (
            f"[Match]\nName=host0\n[Network]\nAddress={instance.address}/{lab.subnet.prefixlen}\n"
            f"Gateway={lab.gateway}\n"
        ),
    }
    for path, text in files.items():
        (root / path).unlink(missing_ok=True)
        (root / path).write_text(text)
    keys = root / "home/admin/.ssh"
    keys.mkdir(mode=0o700, exist_ok=True)
    (keys / "authorized_keys").write_text(lab.private_key.with_suffix(".pub").read_text())
    run("chroot", root, "chown", "-R", "admin:admin", "/home/admin/.ssh")
    run("chroot", root, "ssh-keygen", "-A")
    public = (root / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
    known = lab.known_hosts.read_text().splitlines() if lab.known_hosts.exists() else []
    known = [line for line in known if not line.startswith(f"{instance.address} ")]
    lab.known_hosts.write_text("\n".join([*known, f"{instance.address} {public[0]} {public[1]}", ""]))


def _cgroups(lab: Lab, instance: Instance) -> list[Path]:
    """The machine's own control group in every hierarchy of this host."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [Path(words[1]) / f"{lab.name}-{instance.name}" for words in mounts if words[2] in ("cgroup", "cgroup2")]


def boot(lab: Lab, instance: Instance) -> int:
    """Run the machine in the foreground, through its reboots, until it powers off."""
    # In a shared group systemd would find, and stop, the processes of another machine's units.
    for group in _cgroups(lab, instance):
        group.mkdir(exist_ok=True)
        # A v1 cpuset takes no process before it has CPUs; nothing in the lab needs one.
        with contextlib.suppress(OSError):
            (group / "cgroup.procs").write_text("0")
    caches = {
        CACHE / "apt" / instance.suite: "/var/cache/apt/archives",
        CACHE / "uv" / instance.suite: "/var/cache/uv",
    }
    for path in caches:
        path.mkdir(parents=True, exist_ok=True)
    propagate = Path("/run/systemd/nspawn")
    propagate.mkdir(parents=True, exist_ok=True)
    if not os.path.ismount(propagate):
        run("mount", "-t", "tmpfs", "tmpfs", propagate)
    command = [
        *["systemd-nspawn", "--quiet", f"--directory={_folder(lab, instance) / 'root'}", "--boot"],
        *["--register=no", "--keep-unit", "--resolv-conf=off", "--console=pipe", "--link-journal=no"],
        *[f"--network-bridge={lab.bridge}", f"--machine={lab.name}-{instance.name}"],
        *[f"--bind={source}:{target}" for source, target in caches.items()],
    ]
    stopping = False
    code = REBOOT
    while code == REBOOT and not stopping:
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL)

        def power_off(*_: object) -> None:
            nonlocal stopping
            stopping = True
            machine.send_signal(signal.SIGTERM)  # noqa: B023 (the machine that runs now is meant)

        signal.signal(signal.SIGTERM, power_off)
        code = machine.wait()
    return code


def power_off(lab: Lab, instance: Instance) -> None:
    """Stop the machine; what it wrote stays."""
    stop(_pid_file(lab, instance))


def down(lab: Lab, instance: Instance) -> None:
    """Stop the machine and take away all it wrote."""
    power_off(lab, instance)
    root = _folder(lab, instance) / "root"
    while os.path.ismount(root):
        run("umount", root)
    for group in _cgroups(lab, instance):
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    shutil.rmtree(_folder(lab, instance), ignore_errors=True)


def named(lab: Lab, name: str) -> Instance:
    """The lab's instance of that name."""
    for instance in lab.instances:
        if instance.name == name:
            return instance
    raise LabError(f"no instance {name}; there are: {', '.join(i.name for i in lab.instances)}")
