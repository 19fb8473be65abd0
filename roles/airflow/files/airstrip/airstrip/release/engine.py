"""The steps of an update and of a rollback, from an archive to a live release.

Each step may be cut off anywhere: what is live is one whole release, and one more run finishes the work.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from airstrip.release import disk, tree
from airstrip.release.host import PARSER
from airstrip.release.lock import Held
from airstrip.release.pack import named
from airstrip.release.run import Answer, Run
from airstrip.release.tree import Refused
from airstrip.release.unpack import unpack

NAME = re.compile(r"\d{8}T\d{6}Z-([0-9a-f]{7,12}(-dirty)?|nocommit)")


class Engine(Run):
    """What a run does."""

    def stage(self, archive: IO[bytes], virtualenv: str, release: str = "", force: bool = False) -> Answer:
        """Lay an archive out, compare it with what is live, and examine it if its packages are here.

        `release` is its name where that is known before the archive is read.
        With `force` it becomes a release even if its code is live already, so that every host has the same.
        """
        if self.check:
            self.lock.look()
            with tempfile.TemporaryDirectory() as folder:
                return self._compared(archive, Path(folder) / "tree", virtualenv)[0]
        with self.step(release):
            with self.timed("stage"), self.writing():
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
        about, files = unpack(archive, folder, self.max_mb)
        release = about.get("release") or named(str(about["commit"]))
        if not NAME.fullmatch(str(release)):
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
            # A run was cut off before Airflow was seen to have all of it: repeat the last steps.
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

    def gate(self, release: str) -> Answer:
        """Examine a staged release, whose packages have come meanwhile."""
        with self.step(release):
            answer = {"changed": True, "release": release, "summary": self._gated(release)}
            return {**answer, "seconds": self.seconds, "said": self.said}

    def _gated(self, release: str) -> str:
        """Examine a staged release, and put it among the others. Raises Refused."""
        folder, now = self.releases.staging(release), self.releases.live()
        noted = json.loads(self.releases.staging(f"{release}.json").read_text())
        with self.timed("gate"):
            verdict = self.host.gate(folder, noted["virtualenv"], self.import_seconds, self.import_mb)
            if verdict["problems"]:
                stays = f"Nothing was changed: {now} stays live." if now else "No release is live yet."
                raise Refused("\n".join([*verdict["problems"], stays]))
            noted["dags"] = {
                dag: file
                for dag, file in verdict["dags"].items()
                if isinstance(file, str) and tree.inside(folder, file)
            }
            noted["examined"] = verdict["files"]
            self.said += slowest(verdict["files"])
            before = self.releases.manifest(now) if now else {"dags": {}, "files": {}}
            self.releases.publish(release, noted)
        return tree.summary(tree.difference(digests(before), digests(noted)), "DAG")

    def choose(self, release: str) -> Answer:
        """Choose an older release instead, or without a name the one before the live one."""
        now, known, switching = self.releases.live(), self.releases.all(), self.releases.switching()
        if not release and switching and switching["back"] and switching["release"] == now:
            # An interrupted rollback resumes, and goes no further.
            release = now
        release = release or self.releases.before() or ""
        if release not in known or not now:
            what = f"There is no release {release}" if release else "No release was live before this one"
            raise Refused(f"{what}; there are: {', '.join(known) or 'none'}. Name one: -e release=ID")
        before, after = self.releases.manifest(now), self.releases.manifest(release)
        self._refuse_other_database(release, after["virtualenv"])
        folder = self.releases.folder(release)
        self.said += self.host.stranded(folder)
        changes = tree.difference(self.releases.files(now), self.releases.files(release))
        answer = {
            "changed": release != now or bool(switching),
            "release": release,
            "summary": f"{now} to {release}: {tree.summary(tree.difference(digests(before), digests(after)), 'DAG')}",
            "said": self.said,
            **self._difference(changes, folder),
        }
        if self.check:
            self.lock.look()
            return answer
        with self.step(release):
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

    def through(self, answer: Answer) -> Answer:
        """Switch to what was staged or chosen, and finish, where no other host has to be ready first."""
        if self.check or not answer["changed"] or not answer.get("ready", True):
            return answer
        self.switch(answer["release"])
        self.finish(answer["release"])
        return {**answer, "finished": True, "seconds": self.seconds, "said": self.said}

    def switch(self, release: str) -> Answer:
        """Make a release live; put the one before back if Airflow does not take it."""
        with self.step(release):
            if release not in self.releases.all():
                raise Refused(f"There is no release {release}; there are: {', '.join(self.releases.all()) or 'none'}")
            self._refuse_other_airflow(self.releases.manifest(release)["virtualenv"])
            with self.writing():
                before = self.releases.begin(release, self.action == "rollback")
            try:
                self._go_live(release)
            except Refused as error:
                raise Refused(f"{error}\n{self._put_back(release, before)}") from error
            self.note(release, f"live in {sum(self.seconds.values()):.1f} s, was {before}")
        answer = {"changed": True, "release": release, "summary": f"{release} is live"}
        return {**answer, "seconds": self.seconds, "said": self.said}

    def _refuse_other_airflow(self, virtualenv: str) -> None:
        """Raise Refused where an update would bring another version of Airflow, unrehearsed."""
        old, new = self.host.version(self.host.virtualenv()), self.host.version(virtualenv)
        if self.action != "rollback" and old and new and old != new:
            raise Refused(f"Its packages are of Airflow {new}, and {old} runs: playbooks/upgrade.yml")

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
        """Make a release live, and wait until Airflow has all of it. Raises Refused."""
        try:
            self._move(release)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Refused(f"{release} cannot go live: {error}") from error

    def _move(self, release: str) -> None:
        """Move the host to a release, with its virtualenv and plugins."""
        virtualenv, parses = self.releases.manifest(release)["virtualenv"], PARSER in self.host.components
        with self.timed("switch"):
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
        with self.timed("live"):
            left = self.host.missing(self.releases.folder(release), self.live_seconds)
        if left:
            raise Refused(
                f"Airflow has not taken these DAGs within {self.live_seconds} s: {', '.join(left[:8])}. Look at: "
                "journalctl -eu airflow-dag-processor; a slower host may need a larger release_live_seconds"
            )

    def finish(self, release: str) -> Answer:
        """Prune, and unlock the host."""
        with self.step(release):
            self.releases.settle()
            gone = self.releases.prune(self.keep, self.keep_mb * 2**20, self.host.needed())
            disk.remove(self.releases.root / "staging")
            self.releases.prune_virtualenvs(Path(self.host.virtualenv()))
            self.lock.give_back()
        return {"changed": bool(gone), "release": release, "summary": f"pruned {len(gone)} releases"}

    def revert(self, release: str) -> Answer:
        """Put back what was live before this run, if it got that far; leave alone what somebody else is at."""
        back, said = False, "nothing to put back"
        # A rollback that was cut off has told nobody the name of what it chose.
        release = release or self.lock.release()
        with suppress(Held), self.step(release):
            switching = self.releases.switching()
            # Wherever it was cut off: making live what is live already changes nothing.
            back = bool(switching) and switching["release"] == release
            if back:
                said = self._put_back(release, switching["before"])
                self.note(release, f"another host did not take it; {said}", action="revert")
            self.lock.give_back()
        return {"changed": back, "release": release, "summary": said}


def slowest(files: dict[str, dict[str, float]]) -> list[str]:
    """Return a line with the files that take longest to import."""
    names = sorted(files, key=lambda name: files[name]["seconds"], reverse=True)[:3]
    took = ", ".join(f"{name} {files[name]['seconds']:.1f} s {files[name]['mb']:.0f} MB" for name in names)
    return [f"slowest to import: {took}"] if names else []


def digests(noted: dict[str, Any]) -> dict[str, str]:
    """Return each DAG with what is known of its file."""
    return {dag: noted["files"].get(file, file) for dag, file in noted["dags"].items()}
