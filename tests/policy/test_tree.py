"""The module that brings a tree of files to a host, run as Ansible runs it, on this machine."""

import itertools
import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files get owners")


def run(tmp_path, *tasks: dict, flags: tuple[str, ...] = ()) -> list[dict]:
    """Run tasks through one ansible-playbook; return the result of each, as the callback prints it."""
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}", "greeting": "hello"},
        "tasks": [{"name": "One", "ignore_errors": True, **task} for task in tasks],
    }
    playbook = tmp_path / "play.yml"
    playbook.write_text(json.dumps([play]))
    result = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", *flags, str(playbook)],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.stdout.startswith("{"), result.stdout + result.stderr
    return [task["hosts"]["localhost"] for task in json.loads(result.stdout)["plays"][0]["tasks"]]


def shell(command: str) -> dict:
    """What happens to the host between two tasks."""
    return {"ansible.builtin.shell": command}


def templates(folder: Path) -> str:
    """A folder with two templates."""
    (folder / "templates" / "etc").mkdir(parents=True)
    for name in ("one", "two"):
        (folder / "templates" / "etc" / f"{name}.conf.j2").write_text(f"{{{{ greeting }}}} {name}\n")
    return str(folder / "templates")


@pytest.fixture
def src(tmp_path) -> str:
    return templates(tmp_path)


def test_writes_once_and_then_changes_nothing(tmp_path, src):
    dest = tmp_path / "host"
    tree = {"file_tree": {"src": src, "dest": str(dest), "files": {f"{dest}/etc/two.conf": {"mode": "0600"}}}}
    first, again = run(tmp_path, tree, tree)
    assert first["changed"] and len(first["paths"]) == 2 and not again["changed"]
    assert (dest / "etc/one.conf").read_text() == "hello one\n"
    assert (dest / "etc/two.conf").stat().st_mode & 0o777 == 0o600


DRIFTS = {
    "content": ("echo edited > {}", "etc/one.conf"),
    "mode": ("chmod 666 {}", "etc/one.conf"),
    "owner": ("chown nobody {}", "etc/one.conf"),
    "missing": ("rm {}", "etc/one.conf"),
    "link": ("ln -sfn elsewhere {}", "current"),
    "stranger": ("touch {}", "etc/stranger.conf"),
}


@pytest.fixture(scope="module")
def repaired(tmp_path_factory) -> dict[str, tuple[str, list[str], bool]]:
    """The path of each drift, what the next run repaired, and whether one more changed anything."""
    folder = tmp_path_factory.mktemp("drift")
    dest = folder / "host"
    links, prune = {f"{dest}/current": "etc"}, [f"{dest}/etc"]
    tree = {"file_tree": {"src": templates(folder), "dest": str(dest), "links": links, "prune": prune}}
    drifts = [(shell(command.format(dest / path)), tree, tree) for command, path in DRIFTS.values()]
    results = run(folder, tree, *itertools.chain.from_iterable(drifts))
    rounds = zip(DRIFTS.items(), results[2::3], results[3::3], strict=True)
    return {name: (str(dest / path), first["paths"], again["changed"]) for (name, (_, path)), first, again in rounds}


@pytest.mark.parametrize("drift", DRIFTS)
def test_finds_and_repairs_drift(repaired, drift):
    path, paths, changed_again = repaired[drift]
    assert paths == [path] and not changed_again


def test_check_mode_tells_and_writes_nothing(tmp_path, src):
    dest = tmp_path / "host"
    (result,) = run(tmp_path, {"file_tree": {"src": src, "dest": str(dest)}}, flags=("--check", "--diff"))
    assert result["changed"] and "hello one" in result["diff"][0]["after"]
    assert not dest.exists()


def test_what_is_refused_changes_nothing(tmp_path, src):
    dest = tmp_path / "host"
    (dest / "etc").mkdir(parents=True)
    (dest / "etc/one.conf").write_text("before\n")
    tree = {"src": src, "dest": str(dest)}
    checked = {**tree, "verify": [["grep", "-q", "goodbye", str(dest / "etc/one.conf")]]}
    refused = {**tree, "files": {f"{dest}/etc/two.conf": {"validate": ["grep", "-q", "three", "%s"]}}}
    unknown = {**tree, "files": {"/etc/typo.conf": {"mode": "0600"}}}
    put_back, invalid, typo = run(tmp_path, {"file_tree": checked}, {"file_tree": refused}, {"file_tree": unknown})
    assert put_back["failed"] and "put back" in put_back["msg"]
    assert invalid["failed"] and "two.conf" in invalid["msg"]
    assert typo["failed"] and "/etc/typo.conf" in typo["msg"]
    assert (dest / "etc/one.conf").read_text() == "before\n" and not (dest / "etc/two.conf").exists()


def test_unapplied_files_stay_changed_until_applied(tmp_path, src):
    """If a run is cut off between a file and its reload, the next completes it."""
    dest, until = tmp_path / "host", tmp_path / "pending" / "nginx"
    tree = {"file_tree": {"src": src, "dest": str(dest), "until": str(until)}}
    edit, handler = shell(f"echo edited > {dest}/etc/one.conf"), shell(f"rm {until}")
    first, look, _, again, _, applied = run(tmp_path, tree, {**tree, "check_mode": True}, edit, tree, handler, tree)
    assert len(first["paths"]) == 2 and first["paths"] == look["paths"] == again["paths"]
    assert not applied["changed"]


def test_a_refused_file_reaches_no_handler(tmp_path, src):
    dest, until = tmp_path / "host", tmp_path / "pending" / "nginx"
    tree = {"src": src, "dest": str(dest), "until": str(until)}
    good, bad = {"file_tree": {**tree, "verify": [["true"]]}}, {"file_tree": {**tree, "verify": [["false"]]}}
    look = shell(f"cat {until} || true")
    results = run(tmp_path, bad, look, good, look, shell(f"echo edited > {dest}/etc/one.conf"), bad, look)
    refused, nothing, written, pending, _, refused_again, left = results
    assert refused["failed"] and nothing["stdout"] == ""
    assert written["changed"] and len(pending["stdout_lines"]) == 2
    assert refused_again["failed"] and left["stdout_lines"] == pending["stdout_lines"]
