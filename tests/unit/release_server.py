"""A root with releases, on a host that does what it is told: what the tests of the engine share."""

from __future__ import annotations

import io
import os

from airstrip.release import disk, pack, tree
from airstrip.release.engine import Engine
from airstrip.release.folder import Releases
from airstrip.release.lock import Lock
from airstrip.release.tree import Refused

ALICE = {"user": "alice", "host": "laptop", "machine": "m1", "space": "s", "process": 1, "began": "then"}
BOB = {**ALICE, "user": "bob", "host": "desk", "machine": "m2", "process": 2}


class Host:
    """Takes every release, and remembers what it was told."""

    components = ("scheduler", "dag-processor", "api-server")

    def __init__(self, root):
        self.root, self.told = root, []
        self.problems, self.left, self.older, self.runs, self.versions = [], [], [], [], {}
        (root / "venvs" / "v1").mkdir(parents=True, exist_ok=True)
        (root / "venvs" / "v2").mkdir(exist_ok=True)
        if not (root / "venv").exists():
            (root / "venv").symlink_to(root / "venvs" / "v1")
        self.began = os.lstat(root / "venv").st_mtime_ns

    def virtualenv(self):
        return os.path.realpath(self.root / "venv")

    def complete(self, virtualenv):
        return os.path.isdir(virtualenv)

    def version(self, virtualenv):
        return self.versions.get(os.path.basename(virtualenv), "3.3.2")

    def use(self, virtualenv):
        self.told.append(f"use {os.path.basename(virtualenv)}")
        disk.link(self.root / "venv", virtualenv)

    def gate(self, staged, virtualenv, seconds, megabytes):
        names = [name for name in tree.description(staged) if name.startswith("dags/")]
        files = {name: {"seconds": 1, "mb": 30} for name in names}
        return {
            "problems": self.problems,
            "files": files,
            "dags": {os.path.basename(name)[:-3]: name for name in names},
        }

    def stale(self, plugins):
        """All components began before the link that is newer than this."""
        changed = max(os.lstat(link).st_mtime_ns for link in (self.root / "venv", plugins) if os.path.lexists(link))
        stale, self.began = changed > self.began, max(self.began, changed)
        return list(self.components) if stale else []

    def restart(self, names):
        self.told.append(f"restart {','.join(names)}")
        return []

    def stop_parser(self):
        self.told.append("stop parser")

    def start_parser(self):
        disk.before_change()

    def wait_until_healthy(self):
        pass

    def missing(self, release, seconds):
        disk.before_change()
        return self.left

    def needed(self):
        return self.runs

    def stranded(self, release):
        return []

    def foreign(self, virtualenv):
        return self.older


class Server:
    """A root with releases; each method is what a playbook does."""

    def __init__(self, tmp_path):
        self.root, self.source = tmp_path / "srv", tmp_path / "source"
        self.host = Host(tmp_path)
        self.releases = Releases(self.root)
        self.number = 0
        (self.source / "dags").mkdir(parents=True)
        self.write("first")

    def engine(self, owner=None, **options):
        return Engine(self.releases, self.host, Lock(self.root / "lock", owner or ALICE, False), **options)

    def write(self, text, name="a"):
        (self.source / "dags" / f"{name}.py").write_text(f"# {text}\n")

    def archive(self, name=""):
        """An archive whose name holds the clock of a controller."""
        self.number += 1
        stream, about = io.BytesIO(), pack.described
        pack.described = lambda *_: {**about(*_), "release": name or f"20260101T{self.number:06}Z-nocommit"}
        pack.pack(self.source, stream, "me", 10)
        pack.described = about
        stream.seek(0)
        return stream

    def ship(self, name="", virtualenv="v1", owner=None, **options):
        engine = self.engine(owner, **options)
        staged = engine.stage(self.archive(name), str(self.host.root / "venvs" / virtualenv))
        return self.finished(engine, staged)

    def rollback(self, release="", **options):
        engine = self.engine(action="rollback", **options)
        return self.finished(engine, engine.choose(release))

    def finished(self, engine, answer):
        if answer["changed"]:
            try:
                engine.switch(answer["release"])
            except Refused as error:
                engine.refused(str(error))
                raise
            engine.finish(answer["release"])
        return answer

    def live(self):
        return self.releases.live()

    def code(self):
        return (self.root / "current" / "dags" / "a.py").read_text()

    def whole(self):
        return self.releases.files(self.live()) == self.releases.manifest(self.live())["files"]


def shipped(server, *texts, **options):
    names = []
    for text in texts:
        server.write(text)
        names.append(server.ship(**options)["release"])
    return names


def go_on_as(server, owner):
    """Let somebody else go on, who breaks the dead run's lock."""
    make = server.engine
    server.engine = lambda *_, **options: broken(make(owner, **options))


def broken(engine):
    engine.lock.breaks = True
    return engine
