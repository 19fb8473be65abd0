"""What goes into a release: the tree as it is, or a refusal that names the entry."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import tarfile
import tracemalloc

import pytest

from airstrip.release import pack, tree, unpack


@pytest.fixture
def source(tmp_path):
    """A folder with one DAG, a program, a dot-file, a symlink to a file and one to a folder."""
    folder = tmp_path / "source"
    for name in ("dags/a.py", "dags/.env", "dags/run.sh", "etl/lib/b.py", "etl/__pycache__/b.pyc", "plugins/p.py"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    (folder / "dags/run.sh").chmod(0o755)
    (folder / "dags/Umsätze täglich.py").write_text("# odd\n")
    (folder / "dags/link.py").symlink_to("a.py")
    (folder / "dags/common").symlink_to("../etl/lib")
    (folder / "secret.txt").write_text("not a part")
    return folder


PARTS = [
    "dags/.env",
    "dags/Umsätze täglich.py",
    "dags/a.py",
    "dags/common",
    "dags/link.py",
    "dags/run.sh",
    "etl/lib/b.py",
    "plugins/p.py",
]


def git(folder, *words):
    command = [
        "git",
        "-C",
        str(folder),
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@b",
        "-c",
        "protocol.file.allow=always",
    ]
    return subprocess.run([*command, *words], text=True, capture_output=True, check=True).stdout


def packed(source, most_mb=10):
    stream = io.BytesIO()
    found = pack.pack(source, stream, "me", most_mb)
    stream.seek(0)
    return stream, found


def test_the_tree_comes_as_it_is(source, tmp_path):
    stream, _ = packed(source)
    about, files = unpack.unpack(stream, tmp_path / "new", 10)
    assert sorted(files) == PARTS
    new = tmp_path / "new"
    assert (
        os.readlink(new / "dags/common") == "../etl/lib"
        and (new / "dags/common/b.py").read_text() == "# etl/lib/b.py\n"
    )
    assert files["dags/link.py"] == "-> a.py" and files["dags/run.sh"].endswith(" +x")
    assert os.access(new / "dags/run.sh", os.X_OK) and not os.access(new / "dags/a.py", os.X_OK)
    assert files == tree.description(new) == tree.description(source)
    assert about["author"] == "me" and about["release"].endswith("-nocommit")


def test_a_mode_alone_is_a_change(source):
    before = tree.description(source)
    (source / "dags/a.py").chmod(0o755)
    assert tree.difference(before, tree.description(source))["changed"] == ["dags/a.py"]


def test_a_checkout_is_named_by_its_commit_and_ships_what_git_does_not_ignore(source, tmp_path):
    (source / ".gitignore").write_text("*.tmp\n__pycache__\n")
    (source / "dags/x.tmp").write_text("")
    git(source, "init", "--quiet")
    git(source, "add", ".")
    git(source, "commit", "--quiet", "--message=first")
    stream, found = packed(source)
    commit = git(source, "rev-parse", "HEAD").strip()
    assert found["about"]["release"].endswith(f"-{commit[:12]}") and found["ignored"] == ["dags/x.tmp"]
    assert sorted(unpack.unpack(stream, tmp_path / "clean", 10)[1]) == PARTS
    (source / "dags/run.sh").unlink()
    (source / "dags/untracked.py").write_text("")
    stream, found = packed(source)
    assert found["about"]["release"].endswith("-dirty")
    files = unpack.unpack(stream, tmp_path / "dirty", 10)[1]
    assert "dags/run.sh" not in files and "dags/untracked.py" in files


def test_a_folder_that_the_checkout_around_it_ignores_is_a_folder(source):
    outer = source.parent
    (outer / ".gitignore").write_text("source\n")
    git(outer, "init", "--quiet")
    git(outer, "add", ".gitignore")
    git(outer, "commit", "--quiet", "--message=outer")
    _, found = packed(source)
    assert found["about"]["commit"] == "" and sorted(tree.description(source)) == PARTS


def test_a_submodule_is_shipped_with_its_files_or_refused(source, tmp_path):
    library = tmp_path / "library"
    library.mkdir()
    git(library, "init", "--quiet")
    (library / "lib.py").write_text("")
    git(library, "add", ".")
    git(library, "commit", "--quiet", "--message=library")
    git(source, "init", "--quiet")
    git(source, "submodule", "--quiet", "add", str(library), "etl/library")
    git(source, "add", ".")
    git(source, "commit", "--quiet", "--message=with a submodule")
    stream, found = packed(source)
    files = unpack.unpack(stream, tmp_path / "new", 10)[1]
    assert "etl/library/lib.py" in files and not any(".git" in name.split("/") for name in files)
    assert not found["about"]["release"].endswith("-dirty")
    git(tmp_path, "clone", "--quiet", str(source), str(tmp_path / "bare"))
    with pytest.raises(tree.Refused, match="etl/library is a submodule without its files: git submodule update --init"):
        packed(tmp_path / "bare")


def test_git_archive_names_its_commit(source, tmp_path):
    """So that a CI job needs nothing but git and ssh."""
    git(source, "init", "--quiet")
    git(source, "add", ".")
    git(source, "commit", "--quiet", "--message=first")
    command = ["git", "-C", str(source), "archive", "--format=tar.gz", "HEAD", "dags", "etl", "plugins"]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    about, files = unpack.unpack(io.BytesIO(archive), tmp_path / "new", 10)
    assert about == {"commit": git(source, "rev-parse", "HEAD").strip()} and set(PARTS) <= set(files)


def archive(*entries):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, values in [("dags/a.py", {}), *entries]:
            tar.addfile(pack.member(name, **values))
    stream.seek(0)
    return stream


def symlink(name, target):
    return name, {"type": tarfile.SYMTYPE, "linkname": target}


BAD = {
    "outside": ([("../x", {})], "is not in dags/"),
    "absolute": ([("/etc/passwd", {})], "/etc/passwd is not in dags/"),
    "another folder": ([("roles/x.yml", {})], "roles/x.yml is not in dags/"),
    "a file in the place of a part": ([("etl", {})], "etl is not in dags/"),
    "a device": ([("dags/null", {"type": tarfile.CHRTYPE})], "dags/null is neither"),
    "a hard link": ([("dags/b", {"type": tarfile.LNKTYPE, "linkname": "dags/a.py"})], "dags/b is neither"),
    "a way out": ([symlink("dags/b", "../../etc")], "dags/b -> ../../etc leads out"),
    "an absolute way out": ([symlink("dags/b", "/etc")], "dags/b -> /etc leads out"),
    "nowhere": ([symlink("dags/b", "none")], "dags/b -> none leads nowhere"),
    "itself": ([symlink("dags/b", "b")], "dags/b -> b leads nowhere"),
    "through a link": ([symlink("dags/b", "../etl"), ("etl/x", {}), ("dags/b/c", {})], "dags/b/c is below"),
    "twice": ([("dags/a.py", {})], "dags/a.py is there twice"),
    "a line break": ([("dags/a\nb.py", {})], r"dags/a\\nb.py' has a character"),
    "no text": ([("dags/\udcff.py", {})], "has a character"),
}  # fmt: skip


@pytest.mark.parametrize(("entries", "words"), BAD.values(), ids=BAD)
def test_what_is_not_plain_is_refused_by_name(entries, words, tmp_path):
    with pytest.raises(tree.Refused, match=words):
        unpack.unpack(archive(*entries), tmp_path / "new", 10)
    assert not (tmp_path / "x").exists()


def test_a_bad_archive_is_refused(tmp_path):
    for number, content in enumerate([b"", b"hello", archive(("dags/b.py", {})).getvalue()[:-30]]):
        with pytest.raises(tree.Refused):
            unpack.unpack(io.BytesIO(content), tmp_path / str(number), 10)
    with pytest.raises(tree.Refused, match="no file in dags"):
        unpack.unpack(io.BytesIO(tar_of_nothing()), tmp_path / "empty", 10)


def tar_of_nothing():
    stream = io.BytesIO()
    tarfile.open(fileobj=stream, mode="w:gz").close()
    return stream.getvalue()


def test_an_archive_that_is_cut_short_is_refused_wherever_that_is(tmp_path):
    """Even if what is left is compressed again, as by a job that is cancelled in a pipe."""
    plain = gzip.decompress(archive(("dags/b.py", {}), ("dags/c.py", {})).getvalue())
    for cut in range(512, 3 * 512, 100):
        with pytest.raises(tree.Refused, match=r"cut short|damaged or none"):
            unpack.unpack(io.BytesIO(gzip.compress(plain[:cut])), tmp_path / str(cut), 10)
    with pytest.raises(tree.Refused, match="Not a gzipped file"):
        unpack.unpack(io.BytesIO(plain), tmp_path / "plain", 10)


def test_links_of_links_lead_nowhere_else(tmp_path):
    """No single one of them tells, and nothing is made outside before it is seen."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    # `up` is dags/ itself, which its path does not tell: five steps back from there end above the tree.
    links = [("dags/1/2/3/x.py", {}), symlink("dags/1/2/3/up", "../../..")]
    out = "1/2/3/up/../../victim"
    with pytest.raises(tree.Refused, match=f"dags/out -> {out} leads out of dags/, etl/ and plugins/"):
        unpack.unpack(archive(*links, symlink("dags/out", out)), tmp_path / "new", 10)
    with pytest.raises(tree.Refused, match="dags/out/made/x is below a symlink"):
        unpack.unpack(archive(*links, symlink("dags/out", out), ("dags/out/made/x", {})), tmp_path / "other", 10)
    assert [path.name for path in victim.iterdir()] == ["file"]


def test_bombs_are_refused_before_they_cost_anything(tmp_path):
    bombs = {
        "depth": (archive(("dags/" + "a/" * 40 + "x", {})), "folders in one another"),
        "a header": (archive(("dags/" + "x" * 2**20, {})), "header of"),
        "many": (archive(*[("dags/__pycache__/x", {})] * 6), "is too much"),
        "what is left out": (zeros("dags/__pycache__/x", 12 * 2**20), "is too much"),
    }
    for name, (stream, words) in bombs.items():
        with pytest.MonkeyPatch.context() as patch, pytest.raises(tree.Refused, match=words):
            patch.setattr(unpack, "MOST_ENTRIES", 5)
            unpack.unpack(stream, tmp_path / name, 10)


def zeros(name, size):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        tar.addfile(pack.member(name, size=size), io.BytesIO(bytes(size)))
    stream.seek(0)
    return stream


def test_a_checkout_that_git_does_not_read_is_refused(source, monkeypatch):
    """Otherwise what it ignores, such as secrets, would be shipped in silence."""
    git(source, "init", "--quiet")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(tree.Refused, match=r"git does not read .*git -C .* status"):
        packed(source)


def test_a_pipe_is_refused_where_it_is(source):
    os.mkfifo(source / "dags/pipe")
    with pytest.raises(tree.Refused, match="dags/pipe is neither a file nor a symlink"):
        packed(source)


def test_bytes_are_bounded_on_both_sides_and_memory_stays_flat(source, tmp_path):
    (source / "etl/data.csv").write_bytes(random.Random(1).randbytes(30 * 2**20))
    with pytest.raises(tree.Refused, match=r"hold 30 MB, a release 20: .*release_max_mb"):
        packed(source, 20)
    tracemalloc.start()
    with open(tmp_path / "archive", "wb") as out:
        pack.pack(source, out, "me", 40)
    with open(tmp_path / "archive", "rb") as stream, pytest.raises(tree.Refused, match=r"etl/data.csv is too much"):
        unpack.unpack(stream, tmp_path / "small", 20)
    with open(tmp_path / "archive", "rb") as stream:
        unpack.unpack(stream, tmp_path / "new", 40)
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()
