"""The steps of an update and of a rollback, from an archive to a live release.

Each step may be cut off anywhere: what is live is one whole release, and one more run finishes the work.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from airstrip.release import disk, tree
from airstrip.release.folder import Releases
from airstrip.release.host import PARSER, Host
from airstrip.release.lock import Held, Lock
from airstrip.release.tree import Refused

Answer = dict[str, Any]
PUSH_SECONDS = 10
SEND_SECONDS = 300
NAME = re.compile(r"\d{8}T\d{6}Z-([0-9a-f]{7,12}(-dirty)?|nocommit)")


@dataclass
class Engine:
    """One run, by one owner. With `check` nothing is changed; with `diff` the answers hold what would be."""

    releases: Releases
    host: Host
    lock: Lock
    action: str = "update"
    check: bool = False
    diff: bool = False
    import_seconds: int = 5
    import_mb: int = 500
    live_seconds: int = 120
    keep: int = 10
    keep_mb: int = 3000
    max_mb: int = 500
    seconds: dict[str, float] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def take(self) -> Answer:
        """Keep other runs away while more than releases changes."""
        if self.check:
            self.lock.look()
        else:
            with self._step(""):
                pass
        return {"changed": False}

    def give_back(self) -> Answer:
        """Let other runs at the host again."""
        self.lock.give_back()
        return {"changed": False}

    def stage(self, archive: IO[bytes], virtualenv: str, release: str = "", force: bool = False) -> Answer:
        """Lay an archive out, compare it with what is live, and examine it if its packages are here.

        `release` is its name where that is known before the archive is read.
        With `force` it becomes a release even if its code is live already, so that every host has the same.
        """
        if self.check:
            self.lock.look()
            with tempfile.TemporaryDirectory() as folder:
                return self._compared(archive, Path(folder) / "tree", virtualenv)[0]
        with self._step(release):
            with self._timed("stage"), self._writing():
                shutil.rmtree(self.releases.root / "staging", ignore_errors=True)
                answer, noted = self._compared(archive, self.releases.staging("new"), virtualenv)
                if not answer["changed"] and not force:
                    return self._nothing(answer)
                self._place(noted)
            answer |= {"changed": True, "release": noted["release"], "seconds": self.seconds}
            if self.host.complete(virtualenv):
                answer |= {"summary": f"{answer['summary']}; {self._gated(noted['release'])}", "ready": True}
                answer["said"] = self.said
            return answer

    def _compared(self, archive: IO[bytes], folder: Path, virtualenv: str) -> tuple[Answer, dict[str, Any]]:
        """Lay an archive out; return what it would change, and what is noted of it."""
        about, files = tree.unpack(archive, folder, self.max_mb)
        release = about.get("release") or tree.named(about["commit"])
        if not NAME.fullmatch(release):
            raise Refused(f"{release!a} is no name of a release")
        now = self.releases.live()
        changes = tree.difference(self.releases.files(now), files)
        packages = [self.releases.manifest(now)["virtualenv"], self.host.virtualenv()] if now else []
        moved = any(other != virtualenv for other in packages)
        changed = not now or moved or any(changes.values())
        withdrawn = changed and self.releases.withdrawn(files, virtualenv)
        if withdrawn:
            raise Refused(
                f"This is {withdrawn}, from which somebody went back. Correct it; or to have it live again: "
                f"ansible-playbook playbooks/rollback.yml -e release={withdrawn}"
            )
        parts = [tree.summary(changes, "file"), *["other packages"] * moved]
        summary = ", ".join(parts) if now else f"the first release, {len(files)} files"
        # A virtualenv is named by the hash of its lock file.
        noted = {**about, "release": release, "files": files, "virtualenv": virtualenv, "lock": Path(virtualenv).name}
        answer = {"changed": changed, "release": release, "ready": False, "summary": summary}
        return {**answer, **self._difference(changes, folder)}, noted

    def _difference(self, changes: dict[str, list[str]], folder: Path) -> Answer:
        """Return what --diff shows of the way from what is live to another tree."""
        if not self.diff or not any(changes.values()):
            return {}
        now = self.releases.live()
        names = sorted(name for names in changes.values() for name in names)
        current = self.releases.root / "current"
        before = current.readlink() if current.is_symlink() else "nothing"
        head = f"--- current leads to {before}\n+++ current leads to another release\n"
        parts = [tree.diff(name, self.releases.folder(now or "none"), folder) for name in names]
        return {"diff": {"prepared": head + "".join(parts)}}

    def _nothing(self, answer: Answer) -> Answer:
        """What to do where the code is live already."""
        now = {**answer, "release": self.releases.live(), "seconds": self.seconds}
        disk.remove(self.releases.root / "staging")
        if self.releases.switching():
            # A run was cut off before Airflow was seen to have all of it: go the last steps once more.
            return {**now, "changed": True, "ready": True}
        self.lock.give_back()
        return now

    def _place(self, noted: dict[str, Any]) -> None:
        """Give a staged release its name."""
        release = noted["release"]
        if self.releases.folder(release).exists():
            raise Refused(f"There is a release {release} already: run it again, a second later")
        disk.before_change()
        self.releases.staging("new").rename(self.releases.staging(release))
        disk.write(self.releases.staging(f"{release}.json"), json.dumps(noted))

    def push(self, archive: IO[bytes]) -> Answer:
        """Go all steps with an archive that somebody sends who may do nothing else. Raises Refused."""
        self.releases.make()
        mark = self.releases.root / "pushed"
        if mark.exists() and 0 <= time.time() - mark.stat().st_mtime < PUSH_SECONDS:
            raise Refused(f"The last push was less than {PUSH_SECONDS} s ago: wait, and push again")
        disk.write(mark, "")
        # Not under the lock: a sender may be slow.
        with tempfile.TemporaryFile(dir=self.releases.root) as spooled:
            spool(archive, spooled, self.max_mb * 2**20)
            answer = self.stage(spooled, self.host.virtualenv())
        if not answer["changed"]:
            return {**answer, "summary": f"{answer['release']} is live already: nothing to do"}
        self.switch(answer["release"])
        self.finish(answer["release"])
        took = sum(self.seconds.values())
        summary = f"{answer['release']} is live after {took:.1f} s: {answer['summary']}"
        return {**answer, "summary": summary, "seconds": self.seconds, "said": self.said}

    def gate(self, release: str) -> Answer:
        """Examine a staged release, whose packages have come meanwhile."""
        with self._step(release):
            answer = {"changed": True, "release": release, "summary": self._gated(release)}
            return {**answer, "seconds": self.seconds, "said": self.said}

    def _gated(self, release: str) -> str:
        """Examine a staged release, and put it among the others. Raises Refused."""
        folder, now = self.releases.staging(release), self.releases.live()
        noted = json.loads(self.releases.staging(f"{release}.json").read_text())
        with self._timed("gate"):
            verdict = self.host.gate(folder, noted["virtualenv"], self.import_seconds, self.import_mb)
            if verdict["problems"]:
                stays = f"Nothing was changed: {now} stays live." if now else "No release is live yet."
                raise Refused("\n".join([*verdict["problems"], stays]))
            noted["dags"] = {dag: file for dag, file in verdict["dags"].items() if inside(folder, file)}
            noted["examined"] = verdict["files"]
            self.said += slowest(verdict["files"])
            before = self.releases.manifest(now) if now else {"dags": {}, "files": {}}
            self.releases.publish(release, noted)
        return tree.summary(tree.difference(digests(before), digests(noted)), "DAG")

    def choose(self, release: str) -> Answer:
        """Choose an older release instead, or without a name the one before the live one."""
        now, known = self.releases.live(), self.releases.all()
        release = release or self.releases.before() or ""
        if release not in known or not now:
            what = f"There is no release {release}" if release else "No release was live before this one"
            raise Refused(f"{what}; there are: {', '.join(known) or 'none'}. Name one: -e release=ID")
        before, after = self.releases.manifest(now), self.releases.manifest(release)
        self._refuse_other_database(release, after["virtualenv"])
        folder = self.releases.folder(release)
        changes = tree.difference(self.releases.files(now), self.releases.files(release))
        answer = {
            "changed": release != now or bool(self.releases.switching()),
            "release": release,
            "summary": f"{now} to {release}: {tree.summary(tree.difference(digests(before), digests(after)), 'DAG')}",
            "said": self.host.stranded(folder),
            **self._difference(changes, folder),
        }
        if self.check:
            self.lock.look()
            return answer
        with self._step(release):
            if not answer["changed"]:
                self.lock.give_back()
        return answer

    def _refuse_other_database(self, release: str, virtualenv: str) -> None:
        """Raise Refused where the database has been migrated since."""
        if virtualenv == self.host.virtualenv() or not self.host.complete(virtualenv):
            return
        foreign = self.host.foreign(virtualenv)
        if foreign:
            raise Refused(
                f"{release} ran with an Airflow whose database is older: {', '.join(foreign)} has been migrated since. "
                "Ship its commit with today's packages: git checkout COMMIT -- dags etl, then playbooks/update.yml"
            )

    def switch(self, release: str) -> Answer:
        """Make a release live; put the one before back if Airflow does not take it."""
        with self._step(release):
            before = self.releases.begin(release, self.action == "rollback")
            try:
                self._go_live(release)
            except Refused as error:
                raise Refused(f"{error}\n{self._put_back(release, before)}") from error
            self._note(release, f"live in {sum(self.seconds.values()):.1f} s, was {before}")
        answer = {"changed": True, "release": release, "summary": f"{release} is live"}
        return {**answer, "seconds": self.seconds, "said": self.said}

    def _put_back(self, release: str, before: str | None) -> str:
        """Make the release before live again, and say how that went."""
        if not before or before == release:
            return "There is no other release to put back."
        try:
            self._go_live(before)
        except Refused as error:
            return f"{before} could not be put back either: {error}"
        self.releases.settle()
        return f"{before} is live again."

    def _go_live(self, release: str) -> None:
        """Make a release live, with its virtualenv, and wait until Airflow has all of it. Raises Refused."""
        virtualenv, parses = self.releases.manifest(release)["virtualenv"], PARSER in self.host.components
        with self._timed("switch"):
            if self.host.virtualenv() != virtualenv:
                if not self.host.complete(virtualenv):
                    raise Refused(f"{virtualenv} is gone: run playbooks/update.yml from the commit of {release}")
                self.host.use(virtualenv)
            self.releases.use_plugins(release)
            stale = self.host.stale(self.releases.root / "plugins")
            others = [name for name in stale if name != PARSER]
            if others:
                # This may wait for tasks, and the DAG processor goes on meanwhile.
                self.said += self.host.restart(others)
            if parses and PARSER in stale:
                # It must not read the new release with the old packages.
                self.host.stop_parser()
            self.releases.switch(release)
            if parses:
                self.host.start_parser()
            if stale and "api-server" in self.host.components:
                self.host.wait_until_healthy()
        if not parses:
            return
        with self._timed("live"):
            left = self.host.missing(self.releases.folder(release), self.live_seconds)
        if left:
            raise Refused(
                f"Airflow has not taken these DAGs within {self.live_seconds} s: {', '.join(left[:8])}. Look at: "
                "journalctl -eu airflow-dag-processor; a slower host may need a larger release_live_seconds"
            )

    def finish(self, release: str) -> Answer:
        """Prune, and let other runs at the host again."""
        with self._step(release):
            self.releases.settle()
            gone = self.releases.prune(self.keep, self.keep_mb * 2**20, self.host.needed())
            disk.remove(self.releases.root / "staging")
            self.releases.prune_virtualenvs(Path(self.host.virtualenv()))
            self.lock.give_back()
        return {"changed": bool(gone), "release": release, "summary": f"pruned {len(gone)} releases"}

    def revert(self, release: str) -> Answer:
        """Put back what was live before this run, where this run got so far; leave alone what somebody else is at."""
        back, said = False, "nothing to put back"
        with suppress(Held), self._step(release):
            switching = self.releases.switching()
            back = bool(switching) and switching["release"] == self.releases.live() == release
            if back:
                said = self._put_back(release, switching["before"])
                self._note(release, f"another host did not take it; {said}", action="revert")
            self.lock.give_back()
        return {"changed": back, "release": release, "summary": said}

    def refused(self, release: str, why: str) -> None:
        """Note that a step was refused, and let other runs at the host again."""
        if not self.check:
            self._note(release, f"refused: {why}")
            self.lock.give_back()

    def _note(self, release: str, what: str, action: str = "", by: dict[str, Any] | None = None) -> None:
        by = by or self.lock.owner
        self.releases.note(f"{action or self.action} {release or '-'} by {by['user']}@{by['host']}: {what}")

    @contextmanager
    def _step(self, release: str) -> Iterator[None]:
        self.releases.make()
        with self.lock.step(self.action, release) as cut_off:
            if cut_off:
                self._note(cut_off["release"], "cut off", cut_off["step"], cut_off)
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Refused(f"The release cannot be written to {self.releases.root}: {error}") from error

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[part] = round(time.monotonic() - start, 2)


def spool(source: IO[bytes], target: IO[bytes], most: int) -> None:
    """Copy what somebody sends, within bytes and seconds. Raises Refused."""
    deadline = time.monotonic() + SEND_SECONDS
    while select.select([source], [], [], max(0, deadline - time.monotonic()))[0]:
        chunk = os.read(source.fileno(), tree.CHUNK)
        if not chunk:
            target.seek(0)
            return
        most -= len(chunk)
        if most < 0:
            raise Refused("The archive is larger than a release may be (release_max_mb)")
        target.write(chunk)
    raise Refused(f"The archive did not come within {SEND_SECONDS} s")


def inside(folder: Path, file: Any) -> bool:
    """Return whether a path that DAG code named is one of the release's files."""
    return isinstance(file, str) and (folder / file).resolve().is_relative_to(folder.resolve())


def slowest(files: dict[str, dict[str, float]]) -> list[str]:
    """Return a line with the files that take longest to import."""
    names = sorted(files, key=lambda name: files[name]["seconds"], reverse=True)[:3]
    took = ", ".join(f"{name} {files[name]['seconds']:.1f} s {files[name]['mb']:.0f} MB" for name in names)
    return [f"slowest to import: {took}"] if names else []


def digests(noted: dict[str, Any]) -> dict[str, str]:
    """Return each DAG with what is known of its file."""
    return {dag: noted["files"].get(file, file) for dag, file in noted["dags"].items()}
