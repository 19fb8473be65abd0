"""The executor of Airflow's scheduler: it gives workloads to the runners of this host, and learns how they end.

Schedulers come and go; what runs stays with its runner (airstrip.runner), where the next scheduler finds it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import select
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow.configuration import conf
from airflow.executors.base_executor import BaseExecutor
from airflow.executors.workloads import ExecuteTask
from airflow.executors.workloads.types import state_class_for_key
from airflow.models.callback import CallbackKey
from airflow.models.connection_test import ConnectionTestKey
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.net import get_hostname
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select as query
from sqlalchemy import update

from airstrip.lost import LOST, bury_the_dead, give_back, prepare_rerun, reset
from airstrip.runner_client import Runner
from airstrip.systemd import notify

if TYPE_CHECKING:
    from airflow.executors.workloads import ExecutorWorkload
    from airflow.executors.workloads.types import WorkloadKey

SOCKETS = Path("/run/airflow-runner")
LOOK_SECONDS = 1
# So long after its last task a scheduler looks for new runs as often as while one runs; then so many times less often.
BUSY_SECONDS, IDLE_TIMES = 60, 4
KEYS = {kind.__name__: kind for kind in (TaskInstanceKey, CallbackKey, ConnectionTestKey)}


class RunnerExecutor(BaseExecutor):
    """Counts what all runners of the host run, whoever gave it to them."""

    is_local = True
    supports_callbacks = True
    supports_connection_test = True

    @property
    def slots_available(self) -> int:
        """Nothing is queued while no runner takes anything: a queued task has a deadline, and others wait for ever."""
        takes = any(not runner.draining for runner in self._runners.values())
        return super().slots_available if takes else 0

    def start(self) -> None:
        """Find the runners, and say which schedulers of this host have died."""
        self._runners: dict[Path, Runner] = {}
        # Of what runs, by the id that the runners know.
        self._keys: dict[str, WorkloadKey] = {}
        self._looked = self._busy = 0.0
        self._ready = self._sent = False
        self._pause = conf.getfloat("airstrip", "idle_seconds", fallback=0.25)
        self._rerun = conf.getboolean("airstrip", "rerun_lost_tasks", fallback=True)
        self._lock = bury_the_dead(self.job_id)
        deadline = time.monotonic() + 60
        while not self._look():
            if time.monotonic() > deadline:
                raise RuntimeError("no airflow-runner answers: systemctl status 'airflow-runner@*'")
            time.sleep(0.2)

    def sync(self) -> None:
        """Note what has ended; where there is nothing else to do, wait for that."""
        if not self._ready:
            self._ready = True
            notify("READY=1\nSTATUS=Schedules")
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._look()
        idle = not (self._sent or self.event_buffer or any(runner.messages for runner in self._runners.values()))
        self._sent = False
        if self.running or not idle:
            self._busy = time.monotonic()
        if idle:
            pause = self._pause * (1 if time.monotonic() - self._busy < BUSY_SECONDS else IDLE_TIMES)
            sockets = [runner.socket for runner in self._runners.values()]
            # Airflow's own pause would wait out the end of a task.
            select.select(sockets, [], [], pause) if sockets else time.sleep(self._pause)
        for path, runner in list(self._runners.items()):
            with self._dropping(path):
                runner.receive(0)
                self._note(runner)

    def end(self) -> None:
        """Give back what no runner has, in the same try; the rest goes on."""
        with contextlib.suppress(OSError):
            self._looked = 0
            self._runners.clear()
            self._look()
        known = {name for runner in self._runners.values() for name in runner.known}
        with create_session() as session:
            session.execute(
                update(TaskInstance)
                .where(TaskInstance.queued_by_job_id == self.job_id, TaskInstance.state == TaskInstanceState.QUEUED)
                .where(TaskInstance.id.not_in(map(UUID, known)))
                .values(state=TaskInstanceState.SCHEDULED, queued_by_job_id=None, queued_dttm=None)
            )

    def terminate(self) -> None:
        """Nothing of this process has to end."""

    def revoke_task(self, *, ti: TaskInstance) -> None:
        """End a task that should have begun long ago."""
        for queue in self._queues():
            queue.pop(ti.key, None)
        for path, runner in list(self._runners.items()):
            with self._dropping(path):
                runner.send({"end": str(ti.id)})

    def try_adopt_task_instances(self, tis: Sequence[TaskInstance]) -> Sequence[TaskInstance]:
        """Keep what a runner has; of the rest return what must be run again."""
        self._look()
        again = []
        for ti in tis:
            if ti.state == TaskInstanceState.RUNNING and ti.hostname != get_hostname():
                # Its heartbeat will tell.
                continue
            if any(str(ti.id) in runner.known for runner in self._runners.values()):
                self._keys[str(ti.id)] = ti.key
                self.running.add(ti.key)
            elif ti.state == TaskInstanceState.QUEUED:
                give_back(ti)
            elif self._rerun:
                prepare_rerun(ti)
                again.append(ti)
            else:
                self.fail(ti.key, LOST)
        return again

    def _process_workloads(self, workload_items: Sequence[ExecutorWorkload]) -> None:
        """Send workloads; one stays in its queue until a runner has it.

        One that goes on after a wait stays there until its first process has ended: Airflow takes that end for the end
        of the second process, and the task for killed, where somebody answers or a trigger fires within a second.
        """
        for workload in workload_items:
            if workload.key in self.running:
                continue
            path = next((path for path, runner in self._runners.items() if not runner.draining), None)
            if not path:
                return
            name, key, content = identity(workload), workload.key, workload.model_dump_json()
            with self._dropping(path):
                self._runners[path].run(
                    {
                        "run": name,
                        "digest": hashlib.sha256(content.encode()).hexdigest(),
                        "key": [type(key).__name__, list(key) if isinstance(key, TaskInstanceKey) else [key.id]],
                        "workload": json.loads(content),
                    }
                )
                self._keys[name] = key
                self.running.add(key)
                self._sent = True
                for queue in self._queues():
                    queue.pop(key, None)
                if workload.running_state is not None:
                    self.change_state(key, workload.running_state, remove_running=False)

    def _queues(self) -> list[dict[Any, Any]]:
        """Return the queues of what was not sent yet, which Airflow 3.4 keeps in one place."""
        if hasattr(self, "executor_queues"):
            return list(self.executor_queues.values())
        return [self.queued_tasks, self.queued_callbacks, self.queued_connection_tests]

    def _note(self, runner: Runner) -> None:
        """Take what a runner has said: a key of the event buffer for each end."""
        while runner.messages:
            said = runner.messages.popleft()
            if "draining" in said:
                runner.draining = said["draining"]
                continue
            name, (kind, values) = said["id"], said["key"]
            key = self._keys.setdefault(name, KEYS[kind](*values))
            runner.known.add(name)
            if said["state"] == "running":
                self.running.add(key)
                continue
            if said["state"] == "lost":
                self._lose([name], said["error"])
            else:
                states = state_class_for_key(key)
                self.change_state(key, states.SUCCESS if said["state"] == "done" else states.FAILED, said["error"])
            self._keys.pop(name, None)
            runner.known.discard(name)
            with contextlib.suppress(OSError):
                runner.send({"noted": name})

    def _look(self) -> bool:
        """Connect to runners that are new; return whether one is there.

        What none of them has is lost, since a runner that answers at all has told what it has.
        """
        self._looked = time.monotonic()
        unknown = False
        for path in sorted(SOCKETS.glob("*.sock")):
            if path in self._runners:
                continue
            try:
                self._runners[path] = Runner(path)
            except ConnectionRefusedError:
                # One that was killed has left its socket.
                continue
            except OSError as error:
                self.log.warning("%s: %s", path, error)
                unknown = True
            else:
                self._note(self._runners[path])
        if self._runners and not unknown:
            known = {name for runner in self._runners.values() for name in runner.known}
            self._lose(self._keys.keys() - known, LOST)
        return bool(self._runners)

    def _lose(self, names: Collection[str], why: str) -> None:
        """Have what runs nowhere any more run again, without a retry used up, or fail."""
        keys = {name: self._keys.pop(name) for name in list(names)}
        self.running -= set(keys.values())
        tasks = {name: key for name, key in keys.items() if isinstance(key, TaskInstanceKey)}
        for name in keys.keys() - tasks.keys():
            self.fail(keys[name], why)
        if not tasks:
            return
        self.log.warning("lost, since %s: %s", why, list(tasks.values()))
        with create_session() as session:
            mine = TaskInstance.id.in_(map(UUID, tasks))
            for ti in session.scalars(query(TaskInstance).where(mine).with_for_update(of=TaskInstance)):
                if ti.state == TaskInstanceState.QUEUED:
                    give_back(ti)
                elif ti.state == TaskInstanceState.RUNNING and self._rerun:
                    prepare_rerun(ti)
                    reset(ti, session)
                elif ti.state == TaskInstanceState.RESTARTING:
                    self.success(ti.key)
                else:
                    self.fail(ti.key, why)

    @contextlib.contextmanager
    def _dropping(self, path: Path) -> Any:
        """Forget a runner whose connection breaks; the next look finds it or its successor."""
        try:
            yield
        except OSError as error:
            self.log.warning("%s: %s", path, error)
            self._runners.pop(path).socket.close()
            self._looked = 0


def identity(workload: ExecutorWorkload) -> str:
    """Return the id that each try of a task has for itself."""
    return str(workload.ti.id if isinstance(workload, ExecuteTask) else workload.key)
