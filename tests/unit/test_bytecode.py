"""What a new virtualenv takes over from another one, and what it compiles anew."""

import os
import py_compile
from pathlib import Path

import pytest

from airstrip import bytecode


@pytest.fixture
def virtualenvs(tmp_path):
    """An old one, compiled, and a new one of a later time: `same` is the same in both, `other` is not."""
    for name, moment, text in (("old", 1_700_000_000, "OTHER = 1\n"), ("new", 1_800_000_000, "OTHER = 2\n")):
        folder = tmp_path / name / "lib" / "python3" / "package"
        folder.mkdir(parents=True)
        for module, content in (("same", "SAME = 1\n"), ("other", text), (name, "")):
            (folder / f"{module}.py").write_text(content)
            os.utime(folder / f"{module}.py", (moment, moment))
            if name == "old":
                py_compile.compile(str(folder / f"{module}.py"))
    return tmp_path / "old", tmp_path / "new"


def compiled(virtualenv):
    return sorted(path.name.partition(".")[0] for path in virtualenv.rglob("*.pyc"))


def test_bytecode_of_the_same_source_is_as_if_it_had_been_compiled_there(virtualenvs):
    old, new = virtualenvs
    assert bytecode.take_over(old, new) == 1 and compiled(new) == ["same"]
    (taken,) = new.rglob("*.pyc")
    compiled_there = Path(py_compile.compile(str(new / "lib/python3/package/same.py"), cfile=str(new / "there")))
    size = bytecode.HEADER.size
    assert taken.read_bytes()[:size] == compiled_there.read_bytes()[:size]
    assert bytecode.take_over(old, new) == 0


def test_bytecode_that_is_older_than_its_source_is_left(virtualenvs):
    old, new = virtualenvs
    os.utime(old / "lib/python3/package/same.py", (1_750_000_000, 1_750_000_000))
    assert bytecode.take_over(old, new) == 0


def test_where_there_is_no_old_one_nothing_is_taken(virtualenvs, tmp_path):
    assert bytecode.take_over(tmp_path / "none", virtualenvs[1]) == 0


def test_a_write_that_is_cut_off_leaves_no_bytecode(virtualenvs, monkeypatch):
    def full(path, content):
        path.open("wb").write(content[:20])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        bytecode.take_over(*virtualenvs)
    assert compiled(virtualenvs[1]) == []
