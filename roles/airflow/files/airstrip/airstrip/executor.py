"""A LocalExecutor whose scheduler can be replaced while its tasks run."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from airflow.configuration import conf
from airflow.executors.base_executor import BaseExecutor, get_execution_api_server_url
from airflow.executors.local_executor import LocalExecutor
from airflow.executors.workloads import ExecuteTask
from airflow.models.taskinstance import TaskInstance
from airflow.utils.net import get_hostname
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import update

from airstrip import releases

if TYPE_CHECKING:
    from airflow.executors.workloads import ExecutorWorkload

_run_here = BaseExecutor.run_workload


class HandoverExecutor(LocalExecutor):
    """Stops between two loops, lets its tasks finish, and leaves alone the tasks of a scheduler that does so."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begun: set[Any] = set()

    def start(self) -> None:
        """Start the workers."""
        self._stopping = self._ready = False
        self._process = os.getpid()
        self._stop_at_once = signal.signal(signal.SIGTERM, self._stop_after_this_loop)
        # The link in the unit's own path leads elsewhere once other packages go live.
        os.environ["PATH"] = f"{sys.prefix}/bin:{os.environ['PATH']}"
        BaseExecutor.run_workload = staticmethod(functools.partial(run_workload, releases_root()))
        super().start()

    def heartbeat(self) -> None:
        """Hand the loop's tasks to the workers; then stop if that was asked for.

        Stock Airflow exits where the signal finds it. A task that the database has as queued and that no worker
        has got would then wait for ten minutes and be tried again.
        """
        super().heartbeat()
        if not self._ready:
            self._ready = True
            notify("READY=1\nSTATUS=Schedules")
        if self._stopping:
            raise SystemExit(os.EX_OK)

    def change_state(self, key: Any, state: Any, info: Any = None, remove_running: bool = True) -> None:
        """Note what became of a workload."""
        if state != TaskInstanceState.RUNNING:
            self._begun.discard(key)
        super().change_state(key, state, info, remove_running)

    def _process_workloads(self, workload_list: list[ExecutorWorkload]) -> None:
        """Hand workloads to the workers; one that goes on after a wait only once the end of its first process is noted.

        Stock Airflow takes that end for the end of the second process, and the task for killed, where somebody answers
        or a trigger fires within a second.
        """
        ready = [workload for workload in workload_list if workload.key not in self._begun]
        self._begun.update(workload.key for workload in ready)
        super()._process_workloads(ready)

    def end(self) -> None:
        """Give back what no worker has begun, wait until the rest has finished, and tell systemd how many still run."""
        self._give_back()
        done = threading.Event()
        counter = threading.Thread(target=self._count, args=(done,), daemon=True)
        counter.start()
        super().end()
        done.set()
        counter.join()

    def try_adopt_task_instances(self, tis: Sequence[TaskInstance]) -> Sequence[TaskInstance]:
        """Return the tasks that must be tried again: those that run nowhere any more.

        A scheduler that lets its tasks finish has no heartbeat, and is taken for dead.
        """
        return [ti for ti in tis if not lives(ti)]

    def _stop_after_this_loop(self, signum: int, frame: FrameType | None) -> None:
        # The workers inherit this handler, and must not react.
        if os.getpid() != self._process:
            return
        if self._stopping and callable(self._stop_at_once):
            self._stop_at_once(signum, frame)
        self._stopping = True

    def _give_back(self) -> None:
        """Leave tasks that wait in this process to the next scheduler, as its own and in the same try.

        LocalExecutor counts a task as done when it begins, so that more wait here than there are workers.
        """
        # Each worker ends at the first of these, so that one is left for this loop.
        for _ in range(len(self.workers) + 1):
            self.activity_queue.put(None)
        waiting = [*self.queued_tasks.values(), *iter(self.activity_queue.get, None)]
        tasks = [workload.ti.id for workload in waiting if isinstance(workload, ExecuteTask)]
        with create_session() as session:
            session.execute(
                update(TaskInstance)
                .where(TaskInstance.id.in_(tasks), TaskInstance.state == TaskInstanceState.QUEUED)
                .values(state=TaskInstanceState.SCHEDULED, queued_by_job_id=None, queued_dttm=None)
            )
        for workload in waiting:
            if not isinstance(workload, ExecuteTask):
                BaseExecutor.run_workload(workload, server=get_execution_api_server_url(self.conf))

    def _count(self, done: threading.Event) -> None:
        while not done.wait(1):
            running = sum(bool(command_line(worker)) for worker in self.workers)
            notify(f"STATUS=Stops when its tasks have finished: {running} still run")


def releases_root() -> Path | None:
    """Return the folder of releases that airflow.cfg names for the bundle, or nothing if it names none."""
    for bundle in conf.getjson("dag_processor", "dag_bundle_config_list", fallback=[]):
        if bundle["classpath"] == "airstrip.bundle.ReleaseBundle":
            return Path(bundle["kwargs"]["root"])
    return None


def run_workload(root: Path | None, workload: ExecutorWorkload, **kwargs: Any) -> int:
    """Run a task with the file and in the virtualenv of its release, and return the exit code.

    Airflow itself would look for the DAG where it lies today, and in the virtualenv of the scheduler. Raises
    CalledProcessError where another virtualenv's Python fails.
    """
    release = workload.bundle_info.version if isinstance(workload, ExecuteTask) else None
    if not root or not release:
        return _run_here(workload, **kwargs)
    try:
        manifest = releases.manifest(root, release)
    except FileNotFoundError:
        # The bundle says so in the task's log.
        return _run_here(workload, **kwargs)
    file = manifest["dags"].get(workload.ti.dag_id)
    if file:
        workload.dag_rel_path = Path(file)
    virtualenv = Path(manifest["virtualenv"])
    if virtualenv == Path(sys.prefix).resolve() or not (virtualenv / "bin" / "python").exists():
        return _run_here(workload, **kwargs)
    command = [virtualenv / "bin" / "python", "-m", "airflow.sdk.execution_time.execute_workload"]
    environment = {**os.environ, "PATH": f"{virtualenv}/bin:{os.environ['PATH']}"}
    # Through standard input: an argument would show the task's token to every user.
    command += ["--json-path", "/dev/stdin"]
    return subprocess.run(command, input=workload.model_dump_json(), env=environment, text=True, check=True).returncode


def lives(ti: TaskInstance) -> bool:
    """Return whether the task still runs, as far as can be known from this host."""
    if ti.state != TaskInstanceState.RUNNING:
        return False
    if ti.hostname != get_hostname():
        # Its heartbeat will tell.
        return True
    return b"airflow" in command_line(ti.pid)


def command_line(process: int) -> bytes:
    """Return the command line of a process: nothing if it has ended, reaped or not."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def notify(message: str) -> None:
    """Tell systemd, where it listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(message.encode(), address.replace("@", "\0", 1))
