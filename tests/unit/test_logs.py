"""Which logs are brought to the bucket late, and what is said of those that it does not take."""

import os
import time

import pytest

from airstrip import logs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Logs of three tasks, two minutes old, one of them empty; and another file."""
    for name, text in (("dag_id=a/run_id=b/one.log", "1"), ("dag_id=a/two.log", "2"), ("dag_id=a/three.log", "")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (time.time() - 120,) * 2)
    (tmp_path / "scheduler.log").write_text("no task's")
    monkeypatch.setattr(logs.conf, "get_mandatory_value", lambda *_: str(tmp_path))
    return tmp_path


class Bucket:
    """Takes what is not among `refused`, as Airflow's own does: what it took is empty."""

    def __init__(self, folder, refused=()):
        self.folder, self.refused, self.taken = folder, refused, []

    def upload(self, path):
        if str(path) not in self.refused:
            self.taken.append(str(path))
            (self.folder / path).write_text("")


def ran(monkeypatch, bucket):
    monkeypatch.setattr(logs, "get_remote_task_log", lambda: bucket)
    with pytest.raises(SystemExit) as ended:
        logs.main()
    return ended.value.code


def test_all_nonempty_logs_are_uploaded(folder, monkeypatch, capsys):
    bucket = Bucket(folder)
    assert ran(monkeypatch, bucket) == 0
    assert bucket.taken == ["dag_id=a/run_id=b/one.log", "dag_id=a/two.log"]
    assert capsys.readouterr().out == "2 logs brought to the bucket\n"


def test_open_or_recently_written_logs_wait(folder, monkeypatch):
    os.utime(folder / "dag_id=a/two.log")
    bucket = Bucket(folder)
    with (folder / "dag_id=a/run_id=b/one.log").open("a"):
        assert ran(monkeypatch, bucket) == 0
    assert bucket.taken == []


def test_one_that_cannot_be_read_does_not_hold_up_the_others(folder, monkeypatch, capsys):
    bucket = Bucket(folder)
    upload = bucket.upload

    def torn(path):
        if path.name == "one.log":
            b"\xff".decode()
        (folder / path).unlink() if path.name == "gone.log" else upload(path)

    (folder / "dag_id=a/gone.log").write_text("tidied meanwhile")
    os.utime(folder / "dag_id=a/gone.log", (time.time() - 120,) * 2)
    monkeypatch.setattr(bucket, "upload", torn)
    assert "dag_id=a/run_id=b/one.log" in ran(monkeypatch, bucket)
    said = capsys.readouterr().out
    assert bucket.taken == ["dag_id=a/two.log"] and "invalid start byte" in said and "1 logs brought" in said


def test_what_the_bucket_does_not_take_is_named(folder, monkeypatch):
    said = ran(monkeypatch, Bucket(folder, refused=["dag_id=a/two.log"]))
    assert said.endswith(f"why is above: {folder}/dag_id=a/two.log")
    assert "airflow_log_bucket" in ran(monkeypatch, None)
