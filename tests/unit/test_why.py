"""One page on a failed run says what was different."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from airstrip.watch import why

BEGAN, ENDED = 1_800_000_000.0, 1_800_000_060.0
TASK = ["load", "-1", "failed", "3", "3", "lab", str(ENDED)]


class Host:
    """A host that remembers one failed run and one good one."""

    def __init__(self, monkeypatch, tmp_path) -> None:
        self.rows = {
            "RUN": [["scheduled__2", "failed", "r2", str(BEGAN), str(ENDED), "scheduled"]],
            "TASKS": [TASK],
            "GOOD": [["scheduled__1", "r1", str(BEGAN - 3600)]],
            "SIMILAR": [["scheduled__0", "r1"]],
        }
        self.done: list[dict] = []
        self.kept: list[dict] = []
        self.root, self.logs = tmp_path / "airflow", tmp_path / "logs"
        names = {getattr(why, name): name for name in self.rows}
        monkeypatch.setattr(why, "ROOT", self.root)
        monkeypatch.setattr(why, "LOGS", self.logs)
        monkeypatch.setattr(why, "ask", lambda query, database, **values: self.rows[names[query]])
        monkeypatch.setattr(why, "done", lambda since: [each for each in self.done if each["at"] >= since])
        monkeypatch.setattr(why, "kept", lambda: self.kept)
        for release, line, pandas in (("r1", "a = 1\n", "2.2"), ("r2", "a = 2\n", "2.3")):
            folder = self.root / "releases" / release
            (folder / "dags").mkdir(parents=True)
            (folder / "dags" / "sales.py").write_text(line)
            packages = tmp_path / f"venv-{release}" / "lib" / "python3.11" / "site-packages"
            (packages / f"pandas-{pandas}.dist-info").mkdir(parents=True)
            (packages / "numpy-2.1.dist-info").mkdir()
            manifest = {"files": {"dags/sales.py": line}, "virtualenv": str(tmp_path / f"venv-{release}")}
            (folder / "release.json").write_text(json.dumps(manifest))

    def page(self, run: str = "") -> str:
        return "\n".join(why.page(SimpleNamespace(database="airflow"), "sales", run))


@pytest.fixture
def host(monkeypatch, tmp_path) -> Host:
    return Host(monkeypatch, tmp_path)


def test_the_page_begins_with_run_task_and_the_last_good_one(host):
    first, task, good, *_ = host.page().splitlines()
    assert first == "sales scheduled__2: failed, 2027-01-15 08:00:00 to 2027-01-15 08:01:00 UTC, scheduled, release r2"
    assert task == "task       load failed in try 3 of 3 on lab, 2027-01-15 08:01:00"
    assert good == "last good  scheduled__1, 2027-01-15 07:00:00, release r1"


def test_what_the_release_and_its_packages_changed_is_shown(host):
    page = host.page()
    assert "release    1 file changed (dags/sales.py)" in page
    assert "packages   1 package changed (pandas)" in page
    assert "           -a = 1" in page and "           +a = 2" in page


def test_an_unchanged_release_is_named(host):
    host.rows["GOOD"][0][1] = "r2"
    assert "release    the same as then" in host.page()


def test_a_release_that_was_pruned_is_said_to_be_gone(host):
    host.rows["GOOD"][0][1] = "r0"
    assert "release    r0 is not on this host any more" in host.page()


def test_what_happened_meanwhile_is_told_and_what_happened_long_before_is_not(host):
    host.done = [
        {"at": BEGAN - 7200, "unit": "nginx", "what": "long before"},
        {"at": BEGAN + 10, "unit": "airflow-scheduler@a.service", "what": "ended and restarted, watchdog"},
    ]
    host.kept = [
        {"at": BEGAN - 7200, "free_mb": 1, "units": {}},
        {"at": BEGAN - 300, "free_mb": 900, "units": {"a": 10}},
        {"at": BEGAN + 30, "free_mb": 40, "units": {"airflow-runner@a.service": 1500, "nginx.service": 9}},
    ]
    page = host.page()
    assert "meanwhile  2027-01-15 08:00:10 airflow-scheduler@a.service: ended and restarted, watchdog" in page
    assert "long before" not in page
    assert (
        "memory     at least 40 MB free, at 2027-01-15 08:00:30, most in airflow-runner@a.service with 1500 MB" in page
    )


def test_the_end_of_the_log_is_read_as_people_read_it(host):
    folder = host.logs / "dag_id=sales" / "run_id=scheduled__2" / "task_id=load"
    folder.mkdir(parents=True)
    error = [{"exc_type": "KeyError", "exc_value": "'price'"}]
    lines = [{"timestamp": "2027-01-15T08:00:59.1Z", "level": "error", "event": "Task failed", "error_detail": error}]
    (folder / "attempt=3.log").write_text("\n".join(["no JSON", *map(json.dumps, lines)]))
    page = host.page()
    assert "           no JSON\n           08:00:59 error Task failed KeyError: 'price'" in page


def test_a_log_that_is_elsewhere_and_similar_failures_are_named(host):
    page = host.page()
    assert "similar    1 of the last 20 runs failed at load: scheduled__0 (r1)" in page
    assert "log        is not on this host: /dags/sales/runs/scheduled__2/tasks/load shows it" in page


@pytest.mark.parametrize(("run", "said"), [("", "no run of sales failed"), ("x", "sales has no run x")])
def test_a_missing_run_is_reported(host, run, said):
    host.rows["RUN"] = []
    with pytest.raises(SystemExit, match=said):
        host.page(run)
