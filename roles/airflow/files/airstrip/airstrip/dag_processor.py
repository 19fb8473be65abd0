"""`airflow dag-processor` that picks up a new release at once, a large one faster, and fixes two bugs of Airflow.

The bugs of Airflow 3.3 show when a run has failed. It notes the run's callback as a second entry of the DAG's file,
without a time. It then assumes that the file was never read, and reads it again and again for as long as the
process lives (apache/airflow 73432). And it looks for the callback of an older release's run in the file that the DAG
has today.
"""

from __future__ import annotations

import ctypes
import functools
import os
import selectors
import sys
from pathlib import Path
from typing import Any

from airflow.__main__ import main as airflow
from airflow.callbacks.callback_requests import DagCallbackRequest
from airflow.dag_processing.bundles.base import BaseDagBundle
from airflow.dag_processing.manager import DagFileInfo, DagFileProcessorManager

from airstrip.bundle import ReleaseBundle
from airstrip.gate.process import at_once

# This many waiting files are a new release, not single edits.
MANY = 10
IN_MOVED_TO = 0x80


def forget_callbacks() -> None:
    """Let a callback leave no entry behind."""
    handle = DagFileProcessorManager.handle_parsing_result

    @functools.wraps(handle)
    def handle_and_forget(self: DagFileProcessorManager, file: DagFileInfo, *args: Any, **kwargs: Any) -> None:
        handle(self, file, *args, **kwargs)
        # Only a callback knows the version of its run.
        if file.bundle_version:
            self._file_stats.pop(file, None)

    DagFileProcessorManager.handle_parsing_result = handle_and_forget


def find_moved_files() -> None:
    """Let the callback of a run be read from the file that its DAG has in the run's own release."""
    prepare = DagFileProcessorManager.prepare_callback_bundle

    @functools.wraps(prepare)
    def prepare_and_find(self: DagFileProcessorManager, request: Any) -> BaseDagBundle | None:
        bundle = prepare(self, request)
        if isinstance(bundle, ReleaseBundle) and request.bundle_version:
            dag = request.dag_id if isinstance(request, DagCallbackRequest) else request.ti.dag_id
            request.filepath = bundle.file(dag, request.filepath)
        return bundle

    DagFileProcessorManager.prepare_callback_bundle = prepare_and_find


def notice_switches() -> None:
    """End the pause between two looks at a switch to another release, not after a second."""
    prepare = DagFileProcessorManager.prepare_bundles

    @functools.wraps(prepare)
    def prepare_and_watch(self: DagFileProcessorManager) -> None:
        prepare(self)
        for bundle in self._dag_bundles:
            if isinstance(bundle, ReleaseBundle) and (moves := moves_into(bundle.root)) >= 0:
                # A registered callback is called when there is something to read; False says it is done with.
                self.selector.register(moves, selectors.EVENT_READ, (lambda moves: bool(os.read(moves, 4096)), None))

    DagFileProcessorManager.prepare_bundles = prepare_and_watch


def moves_into(folder: Path) -> int:
    """Return a file descriptor that is readable once something was moved into a folder (inotify); or -1."""
    libc = ctypes.CDLL(None)
    number = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    return number if libc.inotify_add_watch(number, os.fsencode(folder), IN_MOVED_TO) >= 0 else -1


def hurry() -> None:
    """Let many waiting files use all processors that memory allows: their release is live with the last."""
    start = DagFileProcessorManager._start_new_processes

    @functools.wraps(start)
    def start_more(self: DagFileProcessorManager) -> None:
        usual = self._parallelism
        if len(self._file_queue) >= MANY:
            self._parallelism = max(usual, at_once(len(self._processors)))
        try:
            start(self)
        finally:
            self._parallelism = usual

    DagFileProcessorManager._start_new_processes = start_more


def main() -> None:
    """Run it with the arguments of `airflow dag-processor`."""
    forget_callbacks()
    find_moved_files()
    notice_switches()
    hurry()
    sys.argv = ["airflow", "dag-processor", *sys.argv[1:]]
    airflow()


if __name__ == "__main__":
    main()
