"""The releases on a host: `releases/<id>` each, `current` the live one, a lock, and a history of what was done."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

MANIFEST = "release.json"
# What stands in the file `state` of a release that was live: it was, or somebody went back from it.
STATE = "state"
LIVE = "live"
WITHDRAWN = "withdrawn"
VIRTUALENVS = Path("/opt/airflow/venvs")
# Stands in a virtualenv once nothing of it is missing; the role airflow puts it there.
COMPLETE = "complete"
# A run that is older than this was cut off; none takes so long, many hosts and long tasks included.
LOCK_SECONDS = 6 * 3600


class Refused(Exception):
    """What was asked for cannot be done; the message holds the fix."""


class Held(Refused):
    """Somebody else is at it."""

    def __init__(self, holder: dict | None, works: bool = False) -> None:
        holder = holder or dict.fromkeys(("user", "host", "release", "since", "step", "worker"), "?")
        what = f"release {holder['release']}" if holder["release"] else "the host"
        super().__init__(
            f"{holder['user']}@{holder['host']} has been at {what} since {holder['since']} "
            f"({holder['step']}). Wait for the end; if that run is dead, add: -e release_break_lock=true"
            + (f", after: sudo kill {holder['worker']}, its last process on this host" if works else "")
        )
        self.holder = holder


def now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


class Releases:
    """The folder `root` and what is in it."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.lock_file = self.root / "lock"

    def folder(self, release: str) -> Path:
        return self.root / "releases" / release

    def staging(self, release: str) -> Path:
        return self.root / "staging" / release

    def all(self) -> list[str]:
        """Every release, oldest first: a name begins with its time."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(path.parent.name for path in (self.root / "releases").glob(f"*/{MANIFEST}"))
        return []

    def live(self) -> str | None:
        try:
            release = os.path.basename(os.readlink(self.root / "current"))
        except FileNotFoundError:
            return None
        return release if (self.folder(release) / MANIFEST).is_file() else None

    def manifest(self, release: str) -> dict:
        return json.loads((self.folder(release) / MANIFEST).read_text())

    def files(self, release: str | None) -> dict[str, str]:
        """The digests of the files as they are on the disk, which somebody may have edited."""
        return digests(self.folder(release)) if release else {}

    def state(self, release: str) -> str:
        path = self.folder(release) / STATE
        return path.read_text() if path.exists() else ""

    def before(self, release: str | None) -> str | None:
        """The release to go back to from another."""
        older = [name for name in self.all() if name < (release or "") and self.state(name) == LIVE]
        return older[-1] if older else None

    def mark(self, release: str, state: str) -> None:
        (self.folder(release) / STATE).write_text(state)

    def withdrawn(self, manifest: dict) -> str | None:
        """The release with this content from which somebody went back."""
        for release in self.all():
            if self.state(release) == WITHDRAWN:
                other = self.manifest(release)
                if all(other[key] == manifest[key] for key in ("files", "virtualenv")):
                    return release
        return None

    def diff(self, live: str | None, changes: dict[str, list[str]], new: Callable[[str], bytes]) -> str:
        """What --diff shows."""
        current = self.root / "current"
        target = os.readlink(current) if current.is_symlink() else "nothing"
        text = [f"--- current leads to {target}\n+++ current leads to another release\n"]
        for name in sorted(name for names in changes.values() for name in names):
            path = self.folder(live or "none") / name
            text.append(unified(name, path.read_bytes() if path.is_file() else b"", new(name)))
        return "".join(text)

    # While this file is there, a switch has begun and nobody has seen its good end.
    def begin(self, release: str, before: str | None) -> None:
        (self.root / "switching").write_text(json.dumps({"release": release, "before": before}))

    def switching(self) -> dict | None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return json.loads((self.root / "switching").read_text())
        return None

    def end(self) -> None:
        (self.root / "switching").unlink(missing_ok=True)

    # The lock spans the steps of a run: the file says whose it is. While a step works it also holds the file itself,
    # so that a step which outlived its playbook is waited for.
    @contextlib.contextmanager
    def working(self, owner: dict, step: str, release: str, breaks: bool) -> Iterator[dict | None]:
        """Hold the lock for one step; give the holder whose run was cut off, if there is one. Raise Held."""
        self.root.mkdir(parents=True, exist_ok=True)
        # The first run of all comes before the group: what starts meanwhile must see that there is no release yet.
        with contextlib.suppress(LookupError):
            shutil.chown(self.root, group="airflow")
            self.root.chmod(0o750)
        with open(self.lock_file, "a+", encoding="utf-8") as stream:
            deadline = time.monotonic() + 60
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Held(self._holder(stream), works=True) from None
                    time.sleep(0.2)
            holder = self._holder(stream)
            mine = self._check(holder, owner, breaks)
            since = holder["since"] if mine else now()
            until = time.time() + LOCK_SECONDS
            about = {"release": release, "step": step, "since": since, "until": until, "worker": os.getpid()}
            self._hold(stream, {**owner, **about})
            yield None if mine else holder

    def look_at_the_lock(self, owner: dict, breaks: bool) -> None:
        """Raise Held if somebody else is at it."""
        with contextlib.suppress(FileNotFoundError), open(self.lock_file, encoding="utf-8") as stream:
            self._check(self._holder(stream), owner, breaks)

    def _check(self, holder: dict | None, owner: dict, breaks: bool) -> bool:
        """Whether the lock is this run's own; raise Held if it is another's."""
        mine = self._is_of(holder, owner)
        if holder and not mine and not breaks and time.time() < holder["until"]:
            raise Held(holder)
        return mine

    def unlock(self, owner: dict) -> None:
        """Give the lock back, if it is this run's own."""
        with contextlib.suppress(FileNotFoundError), open(self.lock_file, "r+", encoding="utf-8") as stream:
            if self._is_of(self._holder(stream), owner):
                stream.truncate(0)

    def _is_of(self, holder: dict | None, owner: dict) -> bool:
        return bool(holder) and all(holder.get(key) == owner[key] for key in owner)

    def _holder(self, stream: io.TextIOWrapper) -> dict | None:
        stream.seek(0)
        # A run that is cut off here leaves less than a whole object.
        with contextlib.suppress(ValueError):
            return json.loads(stream.read())
        return None

    def _hold(self, stream: io.TextIOWrapper, holder: dict) -> None:
        stream.truncate(0)
        stream.write(json.dumps(holder))
        stream.flush()

    def note(self, owner: dict, action: str, release: str, outcome: str) -> None:
        """Add a line to the history, if there is still room."""
        outcome = " ".join(outcome.split())
        with contextlib.suppress(OSError), open(self.root / "history", "a", encoding="utf-8") as stream:
            stream.write(f"{now()} {action} {release or '-'} by {owner['user']}@{owner['host']}: {outcome}\n")

    def unpack(self, release: str, archive: bytes, manifest: dict) -> Path:
        """Lay a release out beside the others, as it will be; what an earlier run left there goes."""
        shutil.rmtree(self.root / "staging", ignore_errors=True)
        for path in (self.root / "staging", self.root / "releases"):
            path.mkdir(exist_ok=True)
        folder = self.staging(release)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                path = folder / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tar.extractfile(member).read())
                path.chmod(0o755 if member.mode & 0o100 else 0o644)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
        if digests(folder) != manifest["files"]:
            raise Refused("The release was damaged on its way: run the update again")
        return folder

    def publish(self, release: str) -> None:
        """Put the examined release among the others, safe from a power cut."""
        os.sync()
        self.staging(release).rename(self.folder(release))

    def switch(self, release: str) -> None:
        """Make a release the live one, for whoever looks next."""
        # The DAG processor reads a file again only if it is newer than its last look.
        for path in self.folder(release).rglob("*.py"):
            os.utime(path)
        link(self.root / "current", f"releases/{release}")

    def prune(self, keep: int, room: int, needed: set[str]) -> list[str]:
        """Remove those that never were live, and all but the newest, the live one and those that are needed.

        Of the newest those stay that fit into `room` bytes beside the live one, and the one before it in any case.
        """
        live, known = self.live(), self.all()
        kept = {*needed, live, self.before(live) if keep > 1 else None} & set(known)
        paid = {self._virtualenv(name) for name in kept}
        newest = [name for name in known if self.state(name)][-max(keep, 1) :]
        for name in reversed(newest):
            virtualenv = self._virtualenv(name)
            if name not in kept:
                room -= size(self.folder(name)) + (0 if virtualenv in paid else size(virtualenv))
            if room < 0:
                break
            kept.add(name)
            paid.add(virtualenv)
        gone = [name for name in known if name not in kept]
        for name in gone:
            # A release without its manifest counts no more, should this be cut off.
            (self.folder(name) / MANIFEST).unlink()
        for folder in (self.root / "releases").iterdir():
            if not (folder / MANIFEST).exists():
                shutil.rmtree(folder)
        return gone

    def _virtualenv(self, release: str) -> Path:
        return Path(self.manifest(release)["virtualenv"])

    def prune_virtualenvs(self, live: Path) -> None:
        """Remove the virtualenvs in which no release runs and no process either."""
        used = {live.resolve(), *map(self._virtualenv, self.all())}
        # Only what the role airflow made and has finished.
        for folder in VIRTUALENVS.glob("[0-9a-f]" * 12):
            if folder not in used and (folder / COMPLETE).exists() and not in_use(folder):
                shutil.rmtree(folder)


def size(folder: Path) -> int:
    """The bytes that a folder takes on the disk."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def in_use(folder: Path) -> bool:
    """Whether a process was started from below the folder."""
    for path in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if f" {folder}/" in path.read_text():
                return True
    return False


def digests(release: Path) -> dict[str, str]:
    """The digest of each file below a release's folder, but for what stands there beside the code."""
    ours = {release / MANIFEST, release / STATE}
    return {
        str(path.relative_to(release)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in release.rglob("*")
        if path.is_file() and path not in ours and "__pycache__" not in path.parts
    }


def link(path: Path, target: str) -> None:
    """Point a link elsewhere in one step."""
    new = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    new.symlink_to(target)
    new.replace(path)


def difference(old: dict[str, str], new: dict[str, str]) -> dict[str, list[str]]:
    """What was added, changed and removed between two dictionaries of digests."""
    return {
        "added": sorted(set(new) - set(old)),
        "changed": sorted(name for name in set(new) & set(old) if new[name] != old[name]),
        "removed": sorted(set(old) - set(new)),
    }


def listed(changes: dict[str, list[str]], thing: str) -> str:
    """`1 DAG added (a), 2 DAGs changed (b, c)`"""
    parts = []
    for verb, names in changes.items():
        if names:
            some = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            parts.append(f"{len(names)} {thing}{'s' if len(names) > 1 else ''} {verb} ({some})")
    return ", ".join(parts) or f"no {thing} added, changed or removed"


def unified(name: str, before: bytes, after: bytes) -> str:
    """One file's part of what --diff shows."""
    old, new = (text.decode(errors="replace").splitlines(keepends=True) for text in (before, after))
    return "".join(difflib.unified_diff(old, new, f"live/{name}", f"new/{name}"))
