"""Whose turn it is: the lock of runs, pushes, and what the command says."""

from __future__ import annotations

import json
import os
import time

import pytest

from airstrip.release import command, lock
from airstrip.release import push as push_module
from airstrip.release.lock import Busy, Held
from airstrip.release.tree import Refused
from tests.unit.release_server import ALICE, BOB, broken, shipped


def pushed(server, content, **options):
    """What one sends over a pipe, as SSH hands it on."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source:
        with os.fdopen(writing, "wb") as target:
            target.write(content)
        return push_module.push(server.engine(action="push", **options), source)


def test_a_push_goes_all_the_way_and_not_too_often(server):
    first = pushed(server, server.archive().getvalue())
    assert server.live() == first["release"] and "is live after" in first["summary"] and server.whole()
    with pytest.raises(Busy, match="less than 10 s ago"):
        pushed(server, server.archive().getvalue())
    (server.root / "pushed").write_text("0")
    with push_module.turn(server.root / "pushed"), pytest.raises(Busy, match="Another push is on its way"):
        pushed(server, server.archive().getvalue())
    (server.root / "pushed").write_text("0")
    assert "nothing to do" in pushed(server, server.archive().getvalue())["summary"]
    server.engine(BOB).take()


def test_a_push_that_is_bad_changes_nothing(server, monkeypatch):
    shipped(server, "first")
    before = sorted(server.root.rglob("*"))
    server.write("second")
    monkeypatch.setattr(push_module, "PUSH_SECONDS", 0)
    monkeypatch.setattr(push_module, "SEND_SECONDS", 0.2)
    good = server.archive().getvalue()
    for content, max_mb in ((b"", 10), (b"x" * 1000, 10), (good[:-40], 10), (good, 0)):
        with pytest.raises(Refused):
            pushed(server, content, max_mb=max_mb)
        server.engine().refused("bad")
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, pytest.raises(Refused, match="did not come within"):
        push_module.push(server.engine(), source)
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


def test_nobody_waits_for_a_working_run(server, monkeypatch):
    shipped(server, "first")
    monkeypatch.setattr(lock.time, "sleep", lambda _: pytest.fail("it waits"))
    with server.engine().step("r"), pytest.raises(Held, match="alice@laptop has been at release r"):
        server.engine(BOB).take()


def test_the_history_names_the_holder_of_a_broken_lock(server):
    shipped(server, "first")
    server.engine().take()
    engine = broken(server.engine(BOB))
    engine.take()
    assert server.releases.history()[-1].endswith("update - by alice@laptop: cut off")


def test_a_dead_run_of_this_machine_holds_nothing(server):
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


def test_the_history_is_not_written_by_others(server):
    """A refusal quotes DAG files, and a push that only came too soon is none."""
    shipped(server, "first")
    server.engine(at="r").refused("dags/x.py:1: \x1b[31m" + "x" * 10**6 + "\nupdate r2 by eve: live")
    assert len(server.releases.history()) == 2 and len(server.releases.history()[-1]) < 1100
    assert "\x1b" not in server.releases.history()[-1]
