"""The package that Airflow gets beside its own: releases as a bundle, the examination, the DAG processor."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.dag_processing.manager import DagFileInfo, DagFileProcessorManager
from airflow.exceptions import AirflowException

from airstrip import dag_processor, gate, live, releases
from airstrip.bundle import ReleaseBundle

DAG = """
from airflow.sdk import DAG
with DAG({name!r}, schedule=None):
    pass
"""


@pytest.fixture
def root(tmp_path):
    """Two releases, of which the second is live."""
    for name in ("r1", "r2"):
        folder = tmp_path / "releases" / name
        (folder / "dags").mkdir(parents=True)
        manifest = {"dags": {"moved": f"dags/{name}.py"}, "virtualenv": str(Path(sys.prefix).resolve())}
        (folder / "release.json").write_text(json.dumps(manifest))
    (tmp_path / "current").symlink_to("releases/r2")
    return tmp_path


def bundle(root, **options):
    return ReleaseBundle(name="airstrip", root=str(root), **options)


def test_the_bundle_is_the_live_release(root):
    live = bundle(root)
    live.initialize()
    assert live.path == root / "releases" / "r2"
    assert live.get_current_version().version == "r2"


def test_the_bundle_changes_at_a_refresh_alone(root):
    live = bundle(root)
    (root / "current").unlink()
    (root / "current").symlink_to("releases/r1")
    assert live.get_current_version().version == "r2"
    live.refresh()
    assert live.get_current_version().version == "r1"


def test_a_run_stays_on_its_release(root):
    pinned = bundle(root, version="r1")
    pinned.initialize()
    pinned.refresh()
    assert (pinned.path, pinned.get_current_version().version) == (root / "releases" / "r1", "r1")


def test_a_release_that_is_gone_says_what_to_do(root):
    with pytest.raises(AirflowException, match="run on latest version"):
        bundle(root, version="r0").initialize()


def test_without_a_first_release_there_is_no_version(tmp_path):
    empty = bundle(tmp_path)
    empty.initialize()
    assert empty.get_current_version() is None and not empty.path.exists()


@pytest.fixture
def release(tmp_path):
    folder = tmp_path / "releases" / "candidate"
    (folder / "dags").mkdir(parents=True)
    (folder / "shared").mkdir()
    (folder / "shared" / "numbers_of_ours.py").write_text("ANSWER = 42\n")
    (folder / ".airflowignore").write_text("shared/\n")

    def write(**files):
        for name, text in files.items():
            (folder / "dags" / f"{name}.py").write_text(text)
        return folder

    return write


@pytest.fixture(autouse=True)
def no_database(monkeypatch):
    monkeypatch.setattr(gate, "absent", lambda findings: [])
    monkeypatch.setattr(live, "stranded", lambda dags: [])


def test_a_good_release_passes_and_its_dags_are_known(release):
    importing = "from shared.numbers_of_ours import ANSWER\nassert ANSWER == 42\n" + DAG.format(name="good")
    answer = gate.examine(release(good=importing, other=DAG.format(name="other")))
    assert answer == {"dags": {"good": "dags/good.py", "other": "dags/other.py"}, "problems": []}


PROBLEMS = {
    "a syntax error": ("airflow = DAG(\n", "dags/bad.py:1: SyntaxError"),
    "a missing package": ("import airflow\nimport nowhere_dag\n", "dags/bad.py:2: ModuleNotFoundError: No module"),
    "an end of the process": ("import os\n# airflow DAG\nos._exit(3)\n", "dags/bad.py: ends the Python that"),
    "a long message": (
        "# airflow DAG\ndef f():\n    raise ValueError('first\\nsecond')\nf()\n",
        "dags/bad.py:3: ValueError: first",
    ),
    "a cycle": (
        "from airflow.sdk import DAG\nfrom airflow.providers.standard.operators.empty import EmptyOperator as E\n"
        "with DAG('bad', schedule=None):\n    a, b = E(task_id='a'), E(task_id='b')\n    a >> b >> a\n",
        "dags/bad.py:3: AirflowDagCycleException",
    ),
}


@pytest.mark.parametrize(("source", "words"), PROBLEMS.values(), ids=PROBLEMS)
def test_a_bad_file_is_named_with_its_line(release, source, words):
    (problem,) = gate.examine(release(bad=source, good=DAG.format(name="good")))["problems"]
    assert problem.startswith(words)


def test_one_name_for_two_dags_is_refused(release):
    (problem,) = gate.examine(release(one=DAG.format(name="same"), two=DAG.format(name="same")))["problems"]
    assert problem.startswith("dags/one.py:3 and dags/two.py:3: both define the DAG same")


NAMES = """
from airflow.sdk import Connection, dag, task
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

WAREHOUSE = "warehouse"

@dag(schedule=None)
def names():
    @task(pool="narrow")
    def read():
        Connection.get("x_api")
    read()
    SQLExecuteQueryOperator(task_id="load", sql="SELECT 1", conn_id=WAREHOUSE)
    SQLExecuteQueryOperator(task_id="templated", sql="SELECT 1", conn_id="{{ params.connection }}")
    SQLExecuteQueryOperator(task_id="own", sql="SELECT 1")

names()
"""


def test_the_connections_and_pools_that_a_dag_names_are_found(release):
    folder = release(names=NAMES)
    ((_, finding),) = gate.in_processes(folder, [str(folder / "dags" / "names.py")])
    assert finding.connections == {"x_api": "dags/names.py:11", "warehouse": "dags/names.py:5"}
    assert set(finding.pools) == {"narrow", "default_pool"}


def test_live_asks_again_for_a_file_that_was_read_too_early(tmp_path):
    file = tmp_path / "dag.py"
    file.touch()
    os.utime(file, (0, 0))
    live.refresh(file)
    assert file.stat().st_mtime > 1


def test_the_manifest_tells_the_live_release(root):
    assert releases.live(root) == "r2"
    assert releases.manifest(root, "r1")["dags"] == {"moved": "dags/r1.py"}


def test_a_file_is_read_at_its_interval_again_after_the_callback_of_a_run(monkeypatch, tmp_path):
    monkeypatch.setattr(DagFileProcessorManager, "handle_parsing_result", DagFileProcessorManager.handle_parsing_result)
    dag_processor.forget_callbacks()
    manager = DagFileProcessorManager(max_runs=-1)
    (tmp_path / "a.py").touch()
    scanned = DagFileInfo(rel_path=Path("a.py"), bundle_name="airstrip", bundle_path=tmp_path)
    called = replace(scanned, bundle_version="r1")

    def end(file, result, had_callbacks):
        process = SimpleNamespace(parsing_result=result, had_callbacks=had_callbacks, start_time=time.monotonic())
        manager.handle_parsing_result(file, process, session=None)

    monkeypatch.setattr(DagFileProcessorManager, "persist_parsing_result", lambda self, **_: None)
    manager._bundle_versions = {"airstrip": "r1"}
    end(scanned, SimpleNamespace(serialized_dags=[], import_errors={}, warnings=[]), False)
    end(called, None, True)
    manager._file_queue.clear()
    manager.prepare_file_queue({"airstrip": {scanned}})
    assert list(manager._file_queue) == []


@pytest.mark.parametrize(("free_mb", "running", "most"), [(10_000, 0, 4), (650, 0, 3), (50, 0, 1), (50, 2, 2)])
def test_the_gate_imports_no_more_at_once_than_memory_has_room_for(monkeypatch, free_mb, running, most):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(gate.psutil, "virtual_memory", lambda: SimpleNamespace(available=free_mb * 2**20))
    assert gate.at_once(running) == most
