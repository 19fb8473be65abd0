"""Updates and rollbacks in a folder, cut off anywhere too."""

from __future__ import annotations

import errno
import functools
import itertools
import os
import signal
import subprocess

import pytest

from airstrip.release import disk, folder
from airstrip.release.tree import Refused
from tests.unit.release_server import BOB, Server, go_on_as, shipped


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


def test_a_rollback_goes_to_what_was_live_before_whatever_clocks_say(server):
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


def test_an_update_not_taken_is_rolled_back_with_its_packages(server):
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


def test_an_update_brings_no_other_airflow(server):
    (first,) = shipped(server, "first")
    server.host.versions = {"v2": "3.4.0"}
    with pytest.raises(Refused, match=r"of Airflow 3\.4\.0, and 3\.3\.2 runs: playbooks/upgrade\.yml"):
        server.ship(virtualenv="v2")
    assert server.live() == first and server.host.told == []
    server.host.versions = {}
    second = server.ship(virtualenv="v2")["release"]
    # There is a way back if the database is the same.
    server.host.versions = {"v2": "3.4.0"}
    server.rollback()
    assert server.live() == first != second


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


def test_an_invalid_name_is_refused(server):
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


# Each kills the run before a change of the disk or the host, as `kill -9` would, until one completes. What it ships,
# what does so, what is live then, and the code that a rollback brings.
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


def test_an_update_interrupted_before_it_was_confirmed_is_repeated(server):
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


def test_a_rollback_that_was_cut_off_goes_on_and_no_further(server):
    _, second, _ = shipped(server, "first", "second", "third")
    engine = server.engine(action="rollback")
    engine.choose("")
    server.releases.begin(second, back=True)
    server.releases.switch(second)
    server.rollback()
    assert server.code() == "# second\n" and server.releases.switching() is None


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "full"), subprocess.CalledProcessError(1, "systemctl")])
def test_whatever_fails_in_the_middle_the_release_before_is_put_back(server, monkeypatch, fault):
    (first,) = shipped(server, "first")
    server.write("second")
    switch, faults = server.releases.switch, iter([fault])

    def fail_once(release):
        for found in faults:
            raise found
        switch(release)

    monkeypatch.setattr(server.releases, "switch", fail_once)
    with pytest.raises(Refused, match=f"cannot go live: .*\n{first} is live again"):
        server.ship(virtualenv="v2")
    assert server.live() == first and server.host.virtualenv().endswith("v1") and server.releases.switching() is None


def test_revert_puts_back_what_had_not_even_switched(server):
    (first,) = shipped(server, "first")
    server.write("second")
    engine = server.engine()
    answer = engine.stage(server.archive(), str(server.host.root / "venvs" / "v2"))
    server.releases.begin(answer["release"], back=False)
    server.host.use(str(server.host.root / "venvs" / "v2"))
    assert engine.revert(answer["release"])["changed"]
    assert server.live() == first and server.host.virtualenv().endswith("v1")


def test_a_release_that_is_not_there_is_not_switched_to(server):
    shipped(server, "first")
    with pytest.raises(Refused, match="There is no release typo; there are: 2026"):
        server.engine().switch("typo")
    assert server.releases.switching() is None


def test_a_rollback_that_died_on_its_way_is_put_back_without_its_name(server, monkeypatch):
    first, second = shipped(server, "first", "second")
    monkeypatch.setattr(server.host, "missing", lambda *_: (_ for _ in ()).throw(RuntimeError("dead")))
    engine = server.engine(action="rollback")
    with pytest.raises(RuntimeError):
        engine.through(engine.choose(""))
    assert server.live() == first
    monkeypatch.setattr(server.host, "missing", lambda *_: [])
    assert server.engine(action="rollback").revert("")["changed"] and server.live() == second
    # One that was refused has nothing to put back, whatever another has left.
    with pytest.raises(Refused):
        server.engine(action="rollback").choose("none")
    assert not server.engine(action="rollback").revert("")["changed"]
