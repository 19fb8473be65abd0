"""The package that Airflow gets beside its own: releases as a bundle, the examination, the DAG processor."""

from __future__ import annotations

import json
import os
import selectors
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.callbacks.callback_requests import DagCallbackRequest
from airflow.dag_processing import manager
from airflow.dag_processing.manager import DagFileInfo, DagFileProcessorManager
from airflow.exceptions import AirflowException

from airstrip import dag_processor, live
from airstrip.bundle import ReleaseBundle
from airstrip.release import disk, folder

DAG = """
from airflow.sdk import DAG
with DAG({name!r}, schedule=None):
    pass
"""


@pytest.fixture
def root(tmp_path):
    """Two releases, of which the second is live."""
    for name in ("r1", "r2"):
        path = tmp_path / "releases" / name
        (path / "dags").mkdir(parents=True)
        manifest = {"dags": {"moved": f"dags/{name}.py"}, "virtualenv": str(Path(sys.prefix).resolve())}
        (path / "release.json").write_text(json.dumps(manifest))
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


def test_live_asks_again_for_a_file_that_was_read_too_early(tmp_path):
    file = tmp_path / "dag.py"
    file.touch()
    os.utime(file, (0, 0))
    live.refresh(file)
    assert file.stat().st_mtime > 1


def test_the_manifest_tells_the_live_release(root):
    assert folder.live(root) == "r2"
    assert folder.manifest(root, "r1")["dags"] == {"moved": "dags/r1.py"}


def test_the_callback_of_an_older_releases_run_is_read_from_that_release(root, monkeypatch):
    """Its DAG has another file today."""
    prepare = DagFileProcessorManager.prepare_callback_bundle
    monkeypatch.setattr(DagFileProcessorManager, "prepare_callback_bundle", prepare)
    bundles = SimpleNamespace(get_bundle=lambda name, version, **_: bundle(root, version=version))
    monkeypatch.setattr(manager, "DagBundlesManager", lambda: bundles)
    dag_processor.find_moved_files()
    request = DagCallbackRequest(
        filepath="dags/r2.py", bundle_name="airstrip", bundle_version="r1", dag_id="moved", run_id="r"
    )
    processor = DagFileProcessorManager(max_runs=-1)
    monkeypatch.setattr(processor, "_get_team_name", lambda name: None)
    processor._add_callback_to_queue(request)
    (file,) = processor._callback_to_execute
    assert (file.bundle_path, file.rel_path) == (root / "releases" / "r1", Path("dags/r1.py"))


def test_a_switch_ends_the_pause_between_two_looks(root, monkeypatch):
    monkeypatch.setattr(DagFileProcessorManager, "prepare_bundles", lambda self: None)
    dag_processor.notice_switches()
    processor = DagFileProcessorManager(max_runs=-1)
    processor._dag_bundles, processor.selector = [bundle(root)], selectors.DefaultSelector()
    processor.prepare_bundles()
    assert not processor.selector.select(timeout=0)
    for _ in range(2):
        disk.link(root / "current", "releases/r1")
        assert processor.selector.select(timeout=0)
        processor._service_processor_sockets(timeout=0)
        assert not processor.selector.select(timeout=0)


@pytest.mark.parametrize(("waiting", "begun"), [(9, 1), (30, 3)])
def test_many_new_files_take_all_processors_and_few_take_one(monkeypatch, tmp_path, waiting, begun):
    monkeypatch.setattr(DagFileProcessorManager, "_start_new_processes", DagFileProcessorManager._start_new_processes)
    monkeypatch.setattr(dag_processor, "at_once", lambda running: 3)
    dag_processor.hurry()
    processor = DagFileProcessorManager(max_runs=-1)
    processor._parallelism = 1
    monkeypatch.setattr(DagFileProcessorManager, "_create_process", lambda self, file: SimpleNamespace())
    monkeypatch.setattr(DagFileProcessorManager, "_get_team_names", lambda self, names: {})
    for number in range(waiting):
        file = DagFileInfo(rel_path=Path(f"{number}.py"), bundle_name="airstrip", bundle_path=tmp_path)
        processor._file_queue[file] = None
    processor._start_new_processes()
    assert (len(processor._processors), processor._parallelism) == (begun, 1)


def test_a_file_is_read_at_its_interval_again_after_the_callback_of_a_run(monkeypatch, tmp_path):
    monkeypatch.setattr(DagFileProcessorManager, "handle_parsing_result", DagFileProcessorManager.handle_parsing_result)
    dag_processor.forget_callbacks()
    processor = DagFileProcessorManager(max_runs=-1)
    (tmp_path / "a.py").touch()
    scanned = DagFileInfo(rel_path=Path("a.py"), bundle_name="airstrip", bundle_path=tmp_path)
    called = replace(scanned, bundle_version="r1")

    def end(file, result, had_callbacks):
        process = SimpleNamespace(parsing_result=result, had_callbacks=had_callbacks, start_time=time.monotonic())
        processor.handle_parsing_result(file, process, session=None)

    monkeypatch.setattr(DagFileProcessorManager, "persist_parsing_result", lambda self, **_: None)
    processor._bundle_versions = {"airstrip": "r1"}
    end(scanned, SimpleNamespace(serialized_dags=[], import_errors={}, warnings=[]), False)
    end(called, None, True)
    processor._file_queue.clear()
    processor.prepare_file_queue({"airstrip": {scanned}})
    assert list(processor._file_queue) == []
