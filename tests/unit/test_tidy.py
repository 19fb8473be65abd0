"""What is removed where logs and packages take too much, and what never is."""

import os
import time

import pytest

from airstrip import tidy


@pytest.fixture
def logs(tmp_path):
    """Five logs of 1 MB, in a folder each: of this minute, and of 2, 3, 4 and 5 hours ago."""
    for hours in (0, 2, 3, 4, 5):
        folder = tmp_path / "logs" / str(hours)
        folder.mkdir(parents=True)
        (folder / "attempt=1.log").write_bytes(b"x" * 2**20)
        moment = time.time() - hours * 3600
        os.utime(folder / "attempt=1.log", (moment, moment))
        os.utime(folder, (moment, moment))
    return tmp_path / "logs"


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.log"))


def test_the_oldest_logs_go_until_the_rest_fits(logs):
    tidy.logs(str(logs), "5")
    assert len(left(logs)) == 5
    tidy.logs(str(logs), "3")
    assert left(logs) == ["0/attempt=1.log", "2/attempt=1.log", "3/attempt=1.log"]


def test_a_log_of_the_last_hour_stays(logs):
    tidy.logs(str(logs), "0")
    assert left(logs) == ["0/attempt=1.log"]


def test_a_tasks_log_goes_when_the_bucket_has_it(logs):
    os.rename(logs / "4", logs / "dag_id=twitter")
    for hours in (0, 5):
        folder = logs / "dag_id=twitter" / f"run_id={hours}"
        folder.mkdir()
        (folder / "attempt=1.log").touch()
        moment = time.time() - hours * 3600
        os.utime(folder / "attempt=1.log", (moment, moment))
    tidy.brought(str(logs), "3")
    tasks = ["dag_id=twitter/attempt=1.log", "dag_id=twitter/run_id=0/attempt=1.log"]
    assert left(logs) == ["0/attempt=1.log", "2/attempt=1.log", "3/attempt=1.log", *tasks]


def test_folders_go_an_hour_after_they_were_emptied(logs):
    (logs / "young").mkdir()
    tidy.logs(str(logs), "0")
    old = time.time() - 7200
    for name in "2345":
        assert (logs / name).is_dir()
        os.utime(logs / name, (old, old))
    tidy.logs(str(logs), "0")
    assert sorted(os.listdir(logs)) == ["0", "young"]


def test_symlinks_are_not_followed(logs, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.log").write_text("x")
    os.utime(outside / "secret.log", (0, 0))
    (logs / "link").symlink_to(outside)
    (logs / "2" / "file.log").symlink_to(outside / "secret.log")
    tidy.logs(str(logs), "0")
    assert (outside / "secret.log").exists()


def test_the_cache_is_emptied_only_for_unlinked_files(tmp_path):
    cache, said = tmp_path / "cache", tmp_path / "said"
    cache.mkdir()
    (cache / "wheel").write_bytes(b"x" * 2**21)
    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\necho $* > {said}\n")
    uv.chmod(0o755)
    os.link(cache / "wheel", tmp_path / "of a virtualenv")
    tidy.cache(str(cache), "1", str(uv))
    assert not said.exists()
    (tmp_path / "of a virtualenv").unlink()
    tidy.cache(str(cache), "1", str(uv))
    assert said.read_text() == f"cache clean --quiet --cache-dir {cache}\n"
