"""What release_source may be: a folder, or a Git address with a branch or tag."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile

import pytest

from tests.server import ROOT

PLUGIN = ROOT / "roles/release/action_plugins/release.py"


@pytest.fixture(scope="module")
def plugin():
    spec = importlib.util.spec_from_file_location("release_action", PLUGIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "roles/airflow/files/airstrip"))


def git(folder, *words: str) -> str:
    somebody = ["-c", "user.name=Team", "-c", "user.email=team@lab", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", str(folder), *somebody, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with a tag whose DAG is older than the branch's."""
    folder = tmp_path_factory.mktemp("team")
    (folder / "dags").mkdir()
    git(folder, "init", "--quiet")
    for number in (1, 2):
        (folder / "dags" / "hello.py").write_text(f"# airflow DAG {number}\n")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", f"--message={number}")
        git(folder, "tag", f"v{number}")
    return folder


@pytest.mark.parametrize(("version", "number"), [("", 2), ("main", 2), ("v1", 1)])
def test_an_address_is_read_at_its_branch_or_tag(plugin, repository, version, number):
    packed = plugin.packed(f"file://{repository}", version, 10)
    assert packed["release"].endswith(f"Z-{git(repository, 'rev-parse', '--short=12', f'v{number}')}")
    with tarfile.open(packed["archive"]) as archive:
        assert archive.extractfile("dags/hello.py").read() == b"# airflow DAG %d\n" % number


def test_a_folder_is_read_as_it_is(plugin, repository):
    (repository / "dags" / "more.py").write_text("# airflow DAG\n")
    try:
        assert plugin.packed(str(repository), "", 10)["release"].endswith("-dirty")
    finally:
        (repository / "dags" / "more.py").unlink()


def test_a_version_that_is_not_there_is_refused(plugin, repository, tmp_path):
    run_by_git = tmp_path / "run-by-git"
    for version in ("none", f"--upload-pack=touch {run_by_git}"):
        with pytest.raises(plugin.tree.Refused, match=r"(?s)cannot be read.*see release_source"):
            plugin.packed(f"file://{repository}", version, 10)
    assert not run_by_git.exists()


def test_an_address_that_nobody_answers_is_refused(plugin, tmp_path):
    with pytest.raises(plugin.tree.Refused, match="see release_source"):
        plugin.packed(f"file://{tmp_path}/nothing", "", 10)


def test_what_looks_like_an_address_is_one(plugin, tmp_path):
    assert all(map(plugin.is_address, ["https://git.example.com/a.git", "git@git.example.com:a/b.git"]))
    assert not plugin.is_address(str(tmp_path)) and not plugin.is_address("dags")
