"""What was lost: tasks whose runner ended, and schedulers that died. The executor decides what becomes of them."""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from airflow.configuration import conf
from airflow.jobs.job import Job, JobState
from airflow.models.taskinstance import TaskInstance
from airflow.utils.helpers import log_filename_template_renderer
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import update

from airstrip.workload import log_line

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

LOST = "the runner ended while the task ran"


def give_back(ti: TaskInstance) -> None:
    """Leave a task that nobody has begun to the next loop, in the same try."""
    ti.state, ti.queued_by_job_id, ti.queued_dttm = TaskInstanceState.SCHEDULED, None, None


def prepare_rerun(ti: TaskInstance) -> None:
    """Use up no retry for what was not the task's fault, and say in its log what happened."""
    ti.max_tries += 1
    file = Path(conf.get_mandatory_value("logging", "base_log_folder"), log_filename_template_renderer()(ti=ti))
    with contextlib.suppress(OSError):
        log_line(
            file, f"Lost: {LOST} (killed, or the machine restarted). The task runs again, without using up a retry."
        )


def reset(ti: TaskInstance, session: Session) -> None:
    """Put a task to its next try, as Airflow does with what nobody adopts."""
    ti.prepare_db_for_next_try(session=session)
    ti.state = ti.queued_by_job_id = ti.external_executor_id = None
    ti.clear_next_method_args()


def bury_the_dead(job: Any) -> TextIO:
    """Return a lock that shows that this scheduler lives; mark those of this host as failed that show it no more.

    Airflow waits for 30 s without a heartbeat, and looks every five minutes.
    """
    folder = Path.home() / "jobs"
    folder.mkdir(exist_ok=True)
    mine = (folder / str(job)).open("w")
    fcntl.flock(mine, fcntl.LOCK_EX)
    dead = []
    for path in folder.iterdir():
        with path.open() as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            dead.append(int(path.name))
            path.unlink()
    with create_session() as session:
        session.execute(
            update(Job).where(Job.id.in_(dead), Job.state == JobState.RUNNING).values(state=JobState.FAILED)
        )
    return mine
