"""Airflow's scheduler, DAG processor or triggerer, which tells systemd that it is alive: watchdog.py COMPONENT

A process that hangs is still there, so systemd must hear from its main loop. In that loop Airflow writes its
heartbeat: the scheduler after a round of scheduling, the DAG processor after a round of files, and the triggerer as
long as the process of the triggers speaks to it.

It is run as a file, with whatever virtualenv is live, so that it is the same for all of them.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

from airflow.__main__ import main as airflow
from airflow.jobs.job import Job

from airstrip.systemd import notify

UPLOAD_SECONDS = 600


def tell_systemd() -> None:
    """Tell systemd once the job is noted in the database, and of each of its heartbeats."""
    begin, beat = Job.prepare_for_execution, Job.heartbeat

    @functools.wraps(begin)
    def begin_and_tell(self: Job, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        # The scheduler is ready later, with its executor, which says so itself.
        if self.job_type != "SchedulerJob":
            notify("READY=1")

    @functools.wraps(beat)
    def beat_and_tell(self: Job, *args: Any, **kwargs: Any) -> None:
        beat(self, *args, **kwargs)
        # Even if the database failed: a restart would not bring it back.
        notify("WATCHDOG=1")

    Job.prepare_for_execution, Job.heartbeat = begin_and_tell, beat_and_tell


def allow_uploads() -> None:
    """Let a triggerer bring a log to a bucket that does not answer, which holds up its main loop."""
    from airflow.jobs.triggerer_job_runner import TriggerLoggingFactory

    upload = TriggerLoggingFactory.upload_to_remote

    @functools.wraps(upload)
    def upload_and_tell(self: TriggerLoggingFactory) -> None:
        notify(f"WATCHDOG=1\nWATCHDOG_USEC={UPLOAD_SECONDS * 1_000_000}")
        try:
            upload(self)
        finally:
            notify(f"WATCHDOG=1\nWATCHDOG_USEC={os.environ['WATCHDOG_USEC']}")

    TriggerLoggingFactory.upload_to_remote = upload_and_tell


def main() -> None:
    """Run a component with its arguments."""
    tell_systemd()
    if sys.argv[1] == "dag-processor":
        from airstrip.dag_processor import main as dag_processor

        del sys.argv[1]
        dag_processor()
    else:
        if sys.argv[1] == "triggerer" and "WATCHDOG_USEC" in os.environ:
            allow_uploads()
        sys.argv[0] = "airflow"
        airflow()


if __name__ == "__main__":
    main()
