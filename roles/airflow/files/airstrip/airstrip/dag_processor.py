"""`airflow dag-processor`, which goes on reading files at their interval after a run has failed.

Airflow 3.3 notes the callback of a run as a second entry of the DAG's file, without a time. It then takes the file for
one that was never read, and reads it again and again for as long as the process lives (apache/airflow 73432).
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from airflow.__main__ import main as airflow
from airflow.dag_processing.manager import DagFileInfo, DagFileProcessorManager


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


def main() -> None:
    """Run it with the arguments of `airflow dag-processor`."""
    forget_callbacks()
    sys.argv = ["airflow", "dag-processor", *sys.argv[1:]]
    airflow()


if __name__ == "__main__":
    main()
