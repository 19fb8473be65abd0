"""The module that brings a tree of files to a host, run as Ansible runs it, on this machine."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files get owners")


def tree(tmp_path, *flags, **arguments):
    """Run one task through ansible-playbook; return its result as the callback prints it."""
    play = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}", "greeting": "hello"},
            "tasks": [{"name": "Tree", "tree": arguments}],
        }
    ]
    playbook = tmp_path / "play.yml"
    playbook.write_text(json.dumps(play))
    result = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", *flags, str(playbook)],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.stdout.startswith("{"), result.stdout + result.stderr
    return json.loads(result.stdout)["plays"][0]["tasks"][0]["hosts"]["localhost"]


@pytest.fixture
def src(tmp_path):
    templates = tmp_path / "templates" / "etc"
    templates.mkdir(parents=True)
    (templates / "one.conf.j2").write_text("{{ greeting }} one\n")
    (templates / "two.conf.j2").write_text("{{ greeting }} two\n")
    return str(tmp_path / "templates")


def test_writes_once_and_then_changes_nothing(tmp_path, src):
    dest = tmp_path / "host"
    options = {"src": src, "dest": str(dest), "files": {f"{dest}/etc/two.conf": {"mode": "0600"}}}
    first = tree(tmp_path, **options)
    assert first["changed"] and len(first["paths"]) == 2
    assert (dest / "etc/one.conf").read_text() == "hello one\n"
    assert (dest / "etc/two.conf").stat().st_mode & 0o777 == 0o600
    assert not tree(tmp_path, **options)["changed"]


@pytest.mark.parametrize("drift", ["content", "mode", "owner", "missing", "link"])
def test_finds_and_repairs_drift(tmp_path, src, drift):
    dest = tmp_path / "host"
    options = {"src": src, "dest": str(dest), "links": {f"{dest}/current": "etc"}}
    tree(tmp_path, **options)
    file = dest / "etc/one.conf"
    match drift:
        case "content":
            file.write_text("edited\n")
        case "mode":
            file.chmod(0o666)
        case "owner":
            os.chown(file, 65534, 0)
        case "missing":
            file.unlink()
        case "link":
            file = dest / "current"
            file.unlink()
            file.symlink_to("elsewhere")
    assert tree(tmp_path, **options)["paths"] == [str(file)]
    assert not tree(tmp_path, **options)["changed"]


def test_check_mode_tells_and_writes_nothing(tmp_path, src):
    dest = tmp_path / "host"
    result = tree(tmp_path, "--check", "--diff", src=src, dest=str(dest))
    assert result["changed"] and "hello one" in result["diff"][0]["after"]
    assert not dest.exists()


def test_puts_everything_back_when_a_checker_refuses(tmp_path, src):
    dest = tmp_path / "host"
    (dest / "etc").mkdir(parents=True)
    (dest / "etc/one.conf").write_text("before\n")
    result = tree(tmp_path, src=src, dest=str(dest), verify=[["grep", "-q", "goodbye", str(dest / "etc/one.conf")]])
    assert result["failed"] and "put back" in result["msg"]
    assert (dest / "etc/one.conf").read_text() == "before\n"
    assert not (dest / "etc/two.conf").exists()


def test_a_refused_file_changes_nothing(tmp_path, src):
    dest = tmp_path / "host"
    files = {f"{dest}/etc/two.conf": {"validate": ["grep", "-q", "three", "%s"]}}
    result = tree(tmp_path, src=src, dest=str(dest), files=files)
    assert result["failed"] and "two.conf" in result["msg"]
    assert not (dest / "etc/one.conf").exists()


def test_an_exception_for_no_file_is_an_error(tmp_path, src):
    result = tree(tmp_path, src=src, dest=str(tmp_path / "host"), files={"/etc/typo.conf": {"mode": "0600"}})
    assert result["failed"] and "/etc/typo.conf" in result["msg"]


def test_what_was_not_applied_stays_a_change_until_it_is(tmp_path, src):
    """A run that is cut off between a file and its reload is made good by the next."""
    dest, until = tmp_path / "host", tmp_path / "pending" / "nginx"
    options = {"src": src, "dest": str(dest), "until": str(until)}
    paths = tree(tmp_path, **options)["paths"]
    assert len(paths) == 2
    assert tree(tmp_path, "--check", **options)["paths"] == paths
    (dest / "etc/one.conf").write_text("edited\n")
    assert tree(tmp_path, **options)["paths"] == paths
    # The handler's part.
    until.unlink()
    assert not tree(tmp_path, **options)["changed"]


def test_what_a_checker_refused_is_not_for_any_handler(tmp_path, src):
    dest, until = tmp_path / "host", tmp_path / "pending" / "nginx"
    assert tree(tmp_path, src=src, dest=str(dest), until=str(until), verify=[["false"]])["failed"]
    assert not until.exists()
    assert tree(tmp_path, src=src, dest=str(dest), until=str(until), verify=[["true"]])["changed"]
    assert until.exists()
    (dest / "etc/one.conf").write_text("edited\n")
    assert tree(tmp_path, src=src, dest=str(dest), until=str(until), verify=[["false"]])["failed"]
    assert len(until.read_text().splitlines()) == 2
