"""Updates and rollbacks in a folder, on a host that does what it is told."""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import signal
import time

import pytest

from airstrip.release import command, disk, folder, lock, tree
from airstrip.release import engine as engine_module
from airstrip.release.engine import Engine
from airstrip.release.folder import Releases
from airstrip.release.lock import Held, Lock
from airstrip.release.tree import Refused

ALICE = {"user": "alice", "host": "laptop", "machine": "m1", "space": "s", "process": 1, "began": "then"}
BOB = {**ALICE, "user": "bob", "host": "desk", "machine": "m2", "process": 2}


class Host:
    """Takes every release, and remembers what it was told."""

    components = ("scheduler", "dag-processor", "api-server")

    def __init__(self, root):
        self.root, self.told = root, []
        self.problems, self.left, self.older, self.runs = [], [], [], []
        (root / "venvs" / "v1").mkdir(parents=True, exist_ok=True)
        (root / "venvs" / "v2").mkdir(exist_ok=True)
        if not (root / "venv").exists():
            (root / "venv").symlink_to(root / "venvs" / "v1")
        self.began = os.lstat(root / "venv").st_mtime_ns

    def virtualenv(self):
        return os.path.realpath(self.root / "venv")

    def complete(self, virtualenv):
        return os.path.isdir(virtualenv)

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
        stream, about = io.BytesIO(), tree.described
        tree.described = lambda *_: {**about(*_), "release": name or f"20260101T{self.number:06}Z-nocommit"}
        tree.pack(self.source, stream, "me", 10)
        tree.described = about
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
                engine.refused(answer["release"], str(error))
                raise
            engine.finish(answer["release"])
        return answer

    def live(self):
        return self.releases.live()

    def code(self):
        return (self.root / "current" / "dags" / "a.py").read_text()

    def whole(self):
        return self.releases.files(self.live()) == self.releases.manifest(self.live())["files"]


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(folder.shutil, "chown", lambda *_, **__: None)
    monkeypatch.setattr(folder, "VIRTUALENVS", tmp_path / "venvs")
    return Server(tmp_path)


def shipped(server, *texts, **options):
    names = []
    for text in texts:
        server.write(text)
        names.append(server.ship(**options)["release"])
    return names


def test_an_update_goes_live_once(server):
    first = server.ship()
    assert first["summary"] == "the first release, 1 files; 1 DAG added (a)" and server.whole()
    again = server.ship()
    assert (again["changed"], again["release"]) == (False, first["release"])
    server.write("second")
    second = server.ship(diff=True)
    assert "-# first\n+# second\n" in second["diff"]["prepared"]
    assert "1 file changed (dags/a.py); 1 DAG changed (a)" in second["summary"]
    assert not (server.root / "staging" / "new").exists() and server.releases.before() == first["release"]
    assert [line.split(" ", 1)[1].partition(": live")[0] for line in server.releases.history()] == [
        f"update {name} by alice@laptop" for name in (first["release"], second["release"])
    ]


def test_check_changes_nothing(server):
    shipped(server, "first")
    before = sorted(server.root.rglob("*"))
    server.write("second")
    assert server.engine(check=True).stage(server.archive(), str(server.host.root / "venvs/v1"))["changed"]
    assert sorted(server.root.rglob("*")) == before


def test_the_way_back_is_what_was_live_before_whatever_a_controllers_clock_says(server):
    server.write("a")
    server.ship(name="20260101T120000Z-nocommit")
    server.write("b")
    server.ship(name="20260101T110000Z-nocommit")
    server.write("c")
    server.ship(name="20260101T100000Z-nocommit")
    for code in ("b", "a"):
        server.rollback()
        assert server.code() == f"# {code}\n"
    with pytest.raises(Refused, match="No release was live before this one; there are: 20260101T12"):
        server.rollback()


def test_what_somebody_went_back_from_is_not_shipped_by_accident(server):
    first, second = shipped(server, "first", "second")
    server.rollback()
    with pytest.raises(Refused, match=f"rollback.yml -e release={second}"):
        server.ship()
    # Its own name brings it back, and then the way back is as it was.
    server.rollback(second)
    assert (server.live(), server.releases.before()) == (second, first)
    assert not server.ship()["changed"]


def test_a_rollback_over_several_withdraws_them_all(server):
    first, second, third = shipped(server, "first", "second", "third")
    server.rollback(first)
    assert server.releases.before() is None and server.releases.state()["withdrawn"] == [second, third]
    server.write("fourth")
    server.ship()
    assert server.releases.before() == first


def test_what_airflow_does_not_take_is_put_back_with_its_packages(server):
    (first,) = shipped(server, "first")
    server.write("second")
    server.host.left = ["a"]
    with pytest.raises(Refused, match=r"has not taken these DAGs within 120 s: a.*\n.*could not be put back either"):
        server.ship(virtualenv="v2")
    server.host.left = []
    assert server.live() == first and server.host.virtualenv().endswith("v1")
    assert "refused" in server.releases.history()[-1]
    server.ship(virtualenv="v2")
    assert server.code() == "# second\n" and server.releases.before() == first


def test_with_other_packages_the_parser_stops_last(server):
    shipped(server, "first")
    server.host.told.clear()
    server.ship(virtualenv="v2")
    assert server.host.told == ["use v2", "restart scheduler,api-server", "stop parser"]


def test_other_plugins_move_the_services_as_other_packages_do(server):
    shipped(server, "first")
    assert server.host.told == []
    (server.source / "plugins").mkdir()
    (server.source / "plugins" / "p.py").write_text("one")
    with_plugins = server.ship()["release"]
    moved = ["restart scheduler,api-server", "stop parser"]
    assert server.host.told == moved and server.releases.plugins() == with_plugins
    server.host.told.clear()
    shipped(server, *"abc", keep=2, keep_mb=0)
    # What the services load stays, and they are left alone.
    assert server.host.told == [] and with_plugins in server.releases.all()
    (server.source / "plugins" / "p.py").write_text("two")
    server.ship()
    server.rollback()
    assert server.host.told == moved * 2
    assert (server.root / "plugins" / "p.py").read_text() == "one"


def test_a_rollback_over_a_migration_is_refused(server):
    first, second = shipped(server, "first")[0], server.ship(virtualenv="v2")["release"]
    server.host.older = ["alembic_version"]
    with pytest.raises(Refused, match=f"{first} ran with an Airflow whose database is older: alembic_version"):
        server.rollback()
    assert server.live() == second


def test_a_problem_is_said_and_nothing_changes(server):
    (first,) = shipped(server, "first")
    server.write("second")
    server.host.problems = ["dags/a.py:1: SyntaxError"]
    with pytest.raises(Refused, match=f"dags/a.py:1: SyntaxError\nNothing was changed: {first} stays live."):
        server.ship()
    assert server.live() == first


def test_a_dags_file_must_be_of_the_release(server, monkeypatch):
    monkeypatch.setattr(
        server.host,
        "gate",
        lambda *_: {"problems": [], "files": {}, "dags": {"a": "dags/a.py", "evil": "../../etc/shadow", "odd": 7}},
    )
    server.ship()
    assert server.releases.manifest(server.live())["dags"] == {"a": "dags/a.py"}


def test_a_name_that_is_none_is_refused(server):
    with pytest.raises(Refused, match=r"'\.\./\.\./etc' is no name of a release"):
        server.ship(name="../../etc")


def test_revert_puts_back_what_this_run_made_live(server):
    (first,) = shipped(server, "first")
    server.write("second")
    engine = server.engine()
    answer = engine.stage(server.archive(), server.host.virtualenv())
    engine.switch(answer["release"])
    assert engine.revert(answer["release"])["changed"] and server.live() == first
    assert not engine.revert(answer["release"])["changed"]
    assert "revert" in server.releases.history()[-1] and server.releases.before() is None


def test_an_edited_file_and_a_lost_link_are_repaired(server):
    shipped(server, "first")
    (server.root / "current" / "dags" / "a.py").write_text("edited")
    assert server.ship()["changed"] and server.code() == "# first\n"
    disk.link(server.root / "current", "releases/none")
    assert server.live() is None
    assert server.ship()["changed"] and server.whole()


def test_pruning_keeps_what_is_live_what_is_needed_and_the_way_back(server):
    names = shipped(server, *"abcd", keep=10)
    server.host.runs = [names[0], "gone"]
    server.write("e")
    last = server.ship(keep=1)["release"]
    assert server.releases.all() == [names[0], last]
    server.host.runs = []
    server.write("f")
    server.ship(keep=2, keep_mb=0)
    assert server.releases.all() == [last, server.live()]


def test_pruning_counts_the_packages_that_older_releases_alone_need(server):
    (server.host.root / "venvs" / "v1" / "package").write_bytes(b"x" * 2**20)
    old = shipped(server, *"ab")
    new = shipped(server, *"cd", virtualenv="v2")
    assert server.releases.prune(10, 2**20 + 10**5, ()) == []
    assert server.releases.prune(10, 10**5, old[:1]) == []
    assert server.releases.prune(10, 10**5, ()) == old
    assert server.releases.all() == new


# Each ends the run before a change of the disk or of the host, as `kill -9` would, until one comes to its end. What it
# ships, what does so, what is live then, and the code of the way back.
STORIES = {
    "an update": ("c", lambda server: server.ship(), "c", "b"),
    "other packages": ("c", lambda server: server.ship(virtualenv="v2"), "c", "b"),
    "a rollback": ("b", lambda server: server.rollback("20260101T000001Z-nocommit"), "a", None),
    "pruning": ("c", lambda server: server.ship(keep=2, keep_mb=0), "c", "b"),
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_cut_off_anywhere_it_leaves_a_whole_release_and_one_more_run_finishes(tmp_path, monkeypatch, story):
    monkeypatch.setattr(folder.shutil, "chown", lambda *_, **__: None)
    text, run, code, back = story
    for cut in itertools.count():
        (tmp_path / str(cut)).mkdir()
        server = Server(tmp_path / str(cut))
        monkeypatch.setattr(folder, "VIRTUALENVS", tmp_path / str(cut) / "venvs")
        shipped(server, "a", "b")
        server.write(text)
        if not killed_at(cut, functools.partial(run, server)):
            break
        assert server.live() and server.whole(), f"cut off before change {cut}"
        server.number += 10
        go_on_as(server, BOB)
        run(server)
        assert server.code() == f"# {code}\n" and server.whole(), f"cut off before change {cut}"
        before = server.releases.before()
        found = before and (server.releases.folder(before) / "dags" / "a.py").read_text()
        assert found == (back and f"# {back}\n"), f"cut off before change {cut}"
        assert server.releases.switching() is None and not (server.root / "staging").exists()
    assert cut > 8


def go_on_as(server, owner):
    """Let somebody else go on, who breaks the lock of the run that is no more."""
    make = server.engine
    server.engine = lambda *_, **options: broken(make(owner, **options))


def broken(engine):
    engine.lock.breaks = True
    return engine


def killed_at(number, run):
    """Whether a run was ended before its change of that number."""
    child = os.fork()
    if not child:
        left = iter(range(number + 1))
        next(left)

        def before_change():
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        disk.before_change = before_change
        try:
            run()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_what_was_cut_off_before_anybody_saw_it_work_is_gone_through_again(server):
    """Also the way back is right, where the next run is a rollback."""
    (first,) = shipped(server, "first")
    server.write("second")
    engine = server.engine()
    answer = engine.stage(server.archive(), server.host.virtualenv())
    server.releases.begin(answer["release"], back=False)
    server.releases.switch(answer["release"])
    assert server.releases.before() == first
    assert server.ship()["changed"] and server.releases.before() == first
    assert not server.ship()["changed"]


def pushed(server, content, **options):
    """What one sends over a pipe, as SSH hands it on."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source:
        with os.fdopen(writing, "wb") as target:
            target.write(content)
        return server.engine(action="push", **options).push(source)


def test_a_push_goes_all_the_way_and_not_too_often(server):
    first = pushed(server, server.archive().getvalue())
    assert server.live() == first["release"] and "is live after" in first["summary"] and server.whole()
    with pytest.raises(Refused, match="less than 10 s ago"):
        pushed(server, server.archive().getvalue())
    os.utime(server.root / "pushed", (0, 0))
    assert "nothing to do" in pushed(server, server.archive().getvalue())["summary"]
    server.engine(BOB).take()


def test_a_push_that_is_bad_changes_nothing(server, monkeypatch):
    shipped(server, "first")
    before = sorted(server.root.rglob("*"))
    server.write("second")
    monkeypatch.setattr(engine_module, "PUSH_SECONDS", 0)
    monkeypatch.setattr(engine_module, "SEND_SECONDS", 0.2)
    good = server.archive().getvalue()
    for content, max_mb in ((b"", 10), (b"x" * 1000, 10), (good[:-40], 10), (good, 0)):
        with pytest.raises(Refused):
            pushed(server, content, max_mb=max_mb)
        server.engine().refused("", "bad")
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, pytest.raises(Refused, match="did not come within"):
        server.engine().push(source)
    os.close(writing)
    left = {path for path in server.root.rglob("*") if "staging" not in path.parts} - {*before}
    assert left == {server.root / "pushed"} and server.code() == "# first\n"


def test_a_lock_is_its_owners_alone(server):
    shipped(server, "first")
    server.engine().take()
    with pytest.raises(Held, match=r"alice@laptop .*release_break_lock=true"):
        server.engine(BOB).take()
    with pytest.raises(Held):
        server.engine(BOB, check=True).take()
    server.engine(BOB).give_back()
    with pytest.raises(Held):
        server.engine(BOB).take()
    server.engine().give_back()
    server.engine(BOB).take()


def test_who_breaks_a_lock_is_told_in_the_history_whose_it_was(server):
    shipped(server, "first")
    server.engine().take()
    engine = broken(server.engine(BOB))
    engine.take()
    assert server.releases.history()[-1].endswith("update - by alice@laptop: cut off")


def test_a_run_of_this_machine_that_is_no_more_holds_nothing(server):
    shipped(server, "first")
    mine = lock.identity("carol", os.getpid())
    server.engine(mine).take()
    with pytest.raises(Held):
        server.engine(BOB).take()
    server.engine({**mine, "began": "Thu Jan  1 00:00:00 1970"}).lock.breaks = True
    gone = broken(server.engine({**mine, "began": "long ago"}))
    gone.take()
    server.engine(BOB).take()


def test_a_lock_of_long_ago_holds_nothing(server, monkeypatch):
    shipped(server, "first")
    server.engine().take()
    later = time.time() + lock.LOCK_SECONDS + 1
    monkeypatch.setattr(lock.time, "time", lambda: later)
    server.engine(BOB).take()


def test_the_command_answers_in_json(server, capsys, monkeypatch):
    monkeypatch.setattr(command, "Host", lambda components: server.host)
    shipped(server, "first", "second")
    options = [f"--root={server.root}", f"--owner={json.dumps(ALICE)}"]
    assert command.main(["history", *options]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["live"] == server.live() and said["before"] == said["releases"][0] and len(said["history"]) == 2
    assert command.main(["choose", "none", *options, "--action=rollback"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["refused"] == err.strip() and "There is no release none" in err
