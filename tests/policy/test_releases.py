"""The folder of releases, its lock and its history, without a host."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "playbooks" / "module_utils"))
import releases as module

ALICE = {"user": "alice", "host": "laptop", "process": 1}
BOB = {"user": "bob", "host": "desk", "process": 2}


@pytest.fixture
def releases(tmp_path, monkeypatch):
    """Three releases: one that somebody went back from, the live one, and one that never went live."""
    monkeypatch.setattr(module.shutil, "chown", lambda *_, **__: None)
    found = module.Releases(str(tmp_path))
    for name, state in (("r1", "withdrawn"), ("r2", "live"), ("r3", "")):
        folder = found.folder(name)
        folder.mkdir(parents=True)
        (folder / "code.py").write_text(name)
        manifest = {"files": module.digests(folder), "virtualenv": "v", "dags": {}}
        (folder / module.MANIFEST).write_text(json.dumps(manifest))
        if state:
            found.mark(name, state)
    found.switch("r2")
    return found


def test_a_lock_is_its_owners_alone(releases):
    with releases.working(ALICE, "update", "r3", False):
        pass
    with pytest.raises(module.Held, match=r"alice@laptop .* r3 .*release_break_lock=true"):
        releases.look_at_the_lock(BOB, False)
    releases.unlock(BOB)
    with pytest.raises(module.Held):
        releases.look_at_the_lock(BOB, False)
    releases.unlock(ALICE)
    releases.look_at_the_lock(BOB, False)


def test_who_breaks_a_lock_learns_whose_it_was(releases):
    with releases.working(ALICE, "update", "r3", False) as cut_off:
        assert cut_off is None
    with releases.working(BOB, "update", "r3", True) as cut_off:
        assert cut_off["user"] == "alice"


def test_only_what_somebody_went_back_from_is_withdrawn(releases):
    assert releases.withdrawn(releases.manifest("r1")) == "r1"
    assert releases.withdrawn(releases.manifest("r3")) is None
    assert releases.withdrawn({**releases.manifest("r1"), "virtualenv": "other"}) is None


def test_pruning_keeps_what_is_live_and_what_is_needed(releases):
    # Nor does it stumble over one that is needed and no longer there.
    assert releases.prune(1, 10**9, {"r1", "r0"}) == ["r3"]
    assert releases.all() == ["r1", "r2"] and releases.live() == "r2"
    assert releases.prune(1, 10**9, set()) == ["r1"]


def test_pruning_counts_bytes_and_the_packages_that_older_releases_alone_need(releases, tmp_path):
    """r4 is live; r3 is the way back; r2 and r1 share a virtualenv of their own."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "package").write_bytes(b"x" * 2**20)
    for name, virtualenv in (("r1", "old"), ("r2", "old"), ("r3", "new"), ("r4", "new")):
        folder = releases.folder(name)
        folder.mkdir(exist_ok=True)
        about = {"files": {}, "virtualenv": str(tmp_path / virtualenv), "dags": {}}
        (folder / module.MANIFEST).write_text(json.dumps(about))
        releases.mark(name, "live")
    releases.switch("r4")
    assert releases.before("r4") == "r3"
    assert releases.prune(10, 2**20 + 10**5, set()) == []
    assert releases.prune(10, 10**5, {"r1"}) == []
    assert releases.prune(10, 10**5, set()) == ["r1", "r2"]
    assert releases.prune(10, 0, set()) == [] and releases.all() == ["r3", "r4"]


def test_after_a_rollback_the_way_back_is_the_release_before_the_live_one(releases):
    """r2 is live, r1 was, and somebody went back from r3."""
    releases.mark("r1", "live")
    releases.mark("r3", "withdrawn")
    assert releases.prune(10, 0, set()) == ["r3"] and releases.all() == ["r1", "r2"]


def test_an_edited_file_and_a_lost_link_are_seen(releases):
    (releases.folder("r2") / "code.py").write_text("edited")
    changes = module.difference(releases.files("r2"), releases.manifest("r2")["files"])
    assert changes == {"added": [], "changed": ["code.py"], "removed": []}
    module.link(releases.root / "current", "releases/none")
    assert releases.live() is None
