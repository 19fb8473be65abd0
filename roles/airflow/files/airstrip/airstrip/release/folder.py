"""The folder of releases on a host: `releases/<id>` each, `current` leads to the live one.

`plugins` leads to those that the services load, `history` says what was done.

`state.json` says which releases were live, in their order by this host's own doing: names hold a controller's clock.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from airstrip.release import disk, tree

ROOT = Path("/srv/airflow")
BUNDLE = "airstrip"
MANIFEST = "release.json"
VIRTUALENVS = Path("/opt/airflow/venvs")
# Marks a virtualenv as complete; the role airflow creates it.
COMPLETE = "complete"


def path(root: Path, release: str) -> Path:
    """Return the folder of a release."""
    return root / "releases" / release


def manifest(root: Path, release: str) -> dict[str, Any]:
    """Return what was noted of a release when it came: `files`, `dags` (id to file), `virtualenv` and more.

    Raises FileNotFoundError where the release is not on this host.
    """
    return json.loads((path(root, release) / MANIFEST).read_text())


def live(root: Path) -> str | None:
    """Return the id of the live release; nothing before the first one, and where `current` leads nowhere."""
    try:
        release = os.path.basename(os.readlink(root / "current"))
    except FileNotFoundError:
        return None
    return release if (path(root, release) / MANIFEST).is_file() else None


class Releases:
    """What is in the folder `root`, and each change of it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def make(self) -> None:
        """Make the folder, and let Airflow read it."""
        self.root.mkdir(parents=True, exist_ok=True)
        # The first run of all comes before the group: what starts meanwhile must see that there is no release yet.
        with contextlib.suppress(LookupError):
            shutil.chown(self.root, group="airflow")
            self.root.chmod(0o750)

    def folder(self, release: str) -> Path:
        """Return the folder of a release."""
        return path(self.root, release)

    def staging(self, name: str) -> Path:
        """Return the folder of a release that is not examined yet."""
        return self.root / "staging" / name

    def all(self) -> list[str]:
        """Return every release, in the order in which they came."""
        found = (self.root / "releases").glob(f"*/{MANIFEST}")
        return [file.parent.name for file in sorted(found, key=lambda file: (file.stat().st_mtime_ns, file))]

    def live(self) -> str | None:
        """Return the live release."""
        return live(self.root)

    def manifest(self, release: str) -> dict[str, Any]:
        """Return what was noted of a release."""
        return manifest(self.root, release)

    def files(self, release: str | None) -> dict[str, str]:
        """Return the description of a release's tree as it is on the disk."""
        return tree.description(self.folder(release)) if release else {}

    # `lineage`: what was live, the newest last; a rollback cuts off its end. `withdrawn`: what somebody went back from.
    # `switching`: a switch that has begun and is not known to have succeeded.
    def state(self) -> dict[str, Any]:
        """Return which releases were live, as far as they are still here."""
        known, now = self.all(), self.live()
        try:
            state = json.loads((self.root / "state.json").read_text())
        except FileNotFoundError:
            # Before the first switch, or where the file was lost.
            state = {"lineage": [*(name for name in known if name != now), now] if now else [], "withdrawn": []}
        here = {key: [name for name in state[key] if name in known] for key in ("lineage", "withdrawn")}
        return {**here, "switching": state.get("switching")}

    def _write(self, state: dict[str, Any]) -> None:
        disk.write(self.root / "state.json", json.dumps(state, indent=1))

    def switching(self) -> dict[str, Any] | None:
        """Return the switch that has begun: `release`, `before`, and whether it goes `back`."""
        return self.state()["switching"]

    def begin(self, release: str, back: bool) -> str | None:
        """Note that a release goes live; return the one before it, even if this had begun already."""
        switching, now = self.switching(), self.live()
        if switching and switching["release"] == release == now:
            return switching["before"]
        self.settle()
        # Whatever was live is in the lineage, however it went live.
        state = self.state()
        if now and now not in state["lineage"]:
            state["lineage"].append(now)
        self._write({**state, "switching": {"release": release, "before": now, "back": back}})
        return now

    def settle(self) -> None:
        """Note what became of the last switch."""
        state = self.state()
        switching, lineage = state["switching"], state["lineage"]
        if not switching:
            return
        release, gone = switching["release"], []
        if self.live() == release:
            if switching["back"] and release in lineage:
                end = lineage.index(release) + 1
                lineage, gone = lineage[:end], lineage[end:]
            else:
                lineage = [*(name for name in lineage if name != release), release]
        withdrawn = [name for name in [*state["withdrawn"], *gone] if name not in lineage]
        self._write({"lineage": lineage, "withdrawn": withdrawn, "switching": None})

    def before(self) -> str | None:
        """Return the release to go back to from the live one."""
        state, now = self.state(), self.live()
        lineage = state["lineage"]
        older = lineage[: lineage.index(now)] if now in lineage else lineage
        return older[-1] if older else None

    def withdrawn(self, files: dict[str, str], virtualenv: str) -> str | None:
        """Return the release with this content from which somebody went back."""
        for release in self.state()["withdrawn"]:
            other = self.manifest(release)
            if (other["virtualenv"], other["files"]) == (virtualenv, files):
                return release
        return None

    def publish(self, release: str, noted: dict[str, Any]) -> None:
        """Put an examined release among the others, safe from a power cut."""
        staged = self.staging(release)
        (staged / MANIFEST).write_text(json.dumps(noted, indent=1))
        (self.root / "releases").mkdir(exist_ok=True)
        disk.move(staged, self.folder(release))

    def switch(self, release: str) -> None:
        """Make a release the live one, for whoever looks next."""
        # The DAG processor reads a file again only if it is newer than its last look.
        for file in self.folder(release).rglob("*.py"):
            os.utime(file, follow_symlinks=False)
        disk.link(self.root / "current", f"releases/{release}")

    def plugins(self) -> str | None:
        """Return the release whose plugins/ the services load when they start: the first one with this content."""
        with contextlib.suppress(FileNotFoundError):
            return Path(os.readlink(self.root / "plugins")).parent.name
        return None

    def use_plugins(self, release: str) -> None:
        """Have the services load a release's plugins when they start, if they are others than before."""
        if self._plugin_files(self.plugins()) != self._plugin_files(release):
            disk.link(self.root / "plugins", f"releases/{release}/plugins")

    def _plugin_files(self, release: str | None) -> dict[str, str]:
        try:
            files = self.manifest(release)["files"] if release else {}
        except FileNotFoundError:
            return {}
        return {name: what for name, what in files.items() if name.startswith("plugins/")}

    def note(self, text: str) -> None:
        """Add a line to the history, if there is still room."""
        disk.before_change()
        with contextlib.suppress(OSError), open(self.root / "history", "a", encoding="utf-8") as stream:
            stream.write(f"{tree.now()} {tree.printable(text)}\n")

    def history(self) -> list[str]:
        """Return the lines of the history, the oldest first."""
        with contextlib.suppress(FileNotFoundError):
            return (self.root / "history").read_text().splitlines()
        return []

    def prune(self, keep: int, room: int, needed: Iterable[str]) -> list[str]:
        """Remove those that never were live, and all but the newest, the live one and those that are needed.

        The newest stay as far as they fit into `room` bytes beside the live one, and the one before it in any case.
        """
        state, known = self.state(), self.all()
        kept = {*needed, self.live(), self.plugins(), self.before() if keep > 1 else None} & {*known}
        paid = {self._virtualenv(name) for name in kept}
        were_live = [name for name in known if name in {*state["lineage"], *state["withdrawn"]}]
        for name in reversed(were_live[-max(keep, 1) :]):
            virtualenv = self._virtualenv(name)
            if name not in kept:
                room -= size(self.folder(name)) + (0 if virtualenv in paid else size(virtualenv))
            if room < 0:
                break
            kept.add(name)
            paid.add(virtualenv)
        gone = [name for name in known if name not in kept]
        for name in gone:
            # If this is cut off, a release without its manifest no longer counts.
            disk.remove(self.folder(name) / MANIFEST)
        for folder in (self.root / "releases").iterdir():
            if not (folder / MANIFEST).exists():
                disk.remove(folder)
        return gone

    def _virtualenv(self, release: str) -> Path:
        return Path(self.manifest(release)["virtualenv"])

    def prune_virtualenvs(self, current: Path) -> None:
        """Remove the virtualenvs that no release and no process uses."""
        used = {current.resolve(), *map(self._virtualenv, self.all())}
        # Only what the role airflow made and has finished.
        for folder in VIRTUALENVS.glob("[0-9a-f]" * 12):
            if folder not in used and (folder / COMPLETE).exists() and not in_use(folder):
                disk.remove(folder)


def size(folder: Path) -> int:
    """Return the bytes that a folder takes on the disk."""
    return sum(file.lstat().st_blocks * 512 for file in folder.rglob("*"))


def in_use(folder: Path) -> bool:
    """Return whether a process was started from below the folder."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if f" {folder}/" in maps.read_text():
                return True
    return False
