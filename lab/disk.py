"""An instance's disk: a writable layer over Debian's image, or over a host that was deployed once and kept.

A kept host is like an image made from an instance on EC2: shared and read-only, and each machine that starts from it
gets its own keys, id and name from its own cloud-init.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab import image
from lab.run import run
from lab.settings import CACHE, Lab, LabError

HOSTS = CACHE / "hosts"
# What cloud-init and systemd make again for a new instance.
IDENTITY = (
    "etc/ssh/ssh_host_*",
    "home/*/.ssh",
    "var/lib/cloud/*",
    "var/log/cloud-init*",
    "var/log/journal/*",
    "var/lib/systemd/random-seed",
)


def kept(name: str) -> Path | None:
    """Return the kept host of a name, or nothing."""
    folder = HOSTS / name
    return folder if folder.exists() else None


def start_from(lab: Lab, stack: str, host: Path | None) -> None:
    """Let the next instance of a stack start from a kept host, or from Debian's image again."""
    choice = lab.state / "disks" / stack
    choice.parent.mkdir(parents=True, exist_ok=True)
    choice.unlink(missing_ok=True)
    if host:
        choice.symlink_to(host)


def mount(lab: Lab, folder: Path, suite: str, stack: str) -> None:
    """Mount the disk of the instance in `folder` at `folder/root`, a new one where it has none."""
    root, layer, work = (folder / name for name in ("root", "layer", "work"))
    if os.path.ismount(root):
        return
    fresh = not layer.exists()
    for path in (layer, work, root):
        path.mkdir(parents=True, exist_ok=True)
    host = lab.state / "disks" / stack
    below = [*([host.resolve()] if host.exists() else []), image.image(suite)]
    options = f"lowerdir={':'.join(map(str, below))},upperdir={layer},workdir={work}"
    run("mount", "-t", "overlay", "airstrip", "-o", options, root)
    if fresh and host.exists():
        _forget(root)


def unmount(folder: Path) -> None:
    """Unmount the disk; what was written stays in its layer."""
    while os.path.ismount(folder / "root"):
        run("umount", folder / "root")


def keep(lab: Lab, folder: Path, stack: str, name: str) -> Path:
    """Keep the disk of a stopped instance as a host to start from; the instance goes on in a new layer over it.

    Older kept hosts that no machine uses are deleted: each is about 2 GB.
    """
    if (lab.state / "disks" / stack).exists():
        raise LabError(f"{stack} started from a kept host itself: keep one that started from Debian's image")
    unmount(folder)
    HOSTS.mkdir(parents=True, exist_ok=True)
    mounts = Path("/proc/mounts").read_text()
    family = name.rpartition("-")[0]
    for old in HOSTS.glob(f"{family}-*"):
        if str(old) not in mounts:
            shutil.rmtree(old)
    shutil.rmtree(folder / "work")
    # A temporary name first: a partial copy must not pass for a host.
    unfinished = HOSTS / f"{name}.unfinished"
    run("mv", "--no-target-directory", folder / "layer", unfinished)
    host = unfinished.rename(HOSTS / name)
    (folder / "layer").mkdir()
    start_from(lab, stack, host)
    return host


def _forget(root: Path) -> None:
    for pattern in IDENTITY:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    # Empty, not missing: systemd would take that for a first boot and reset which units start.
    (root / "etc/machine-id").write_text("")
