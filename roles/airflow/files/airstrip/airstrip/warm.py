"""A warm parent of tasks: it has imported what they need, and forks for each workload.

`python warm.py PROCESSES [PATH ...]` reads workloads from standard input, an object of JSON `{"id", "workload",
"plugins"}` a line, the last of which is the folder of the release's plugins. It says on standard output
`{"id", "process"}` of what it forked, and `{"id", "state", "error"}` once that has ended, with the state `done` or
`failed`. The end of its input ends it. The runner starts it in the virtualenv of a release, which may be an older one:
it needs Airflow and psutil, and nothing of this package. A task may have so many processes, and write beneath these
paths.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import selectors
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import psutil

PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
# Whom the kernel ends first where memory is short.
OOM_SCORE = 500
# Whoever supervises tasks comes first where these take all processors.
NICE = 10
# What a task may write to. Not its log: the supervisor writes that.
WRITABLE = ["/tmp", "/var/tmp", "/dev", "/proc"]
FAILED = 1


def main() -> None:
    """Fork for each line until there are no more."""
    adopt_orphans()
    processes = int(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # Whatever else is printed belongs to the journal, or nowhere.
    os.dup2(2, 1)
    import_what_tasks_need()
    gc.collect()
    gc.freeze()
    workloads: dict[int, str] = {}
    for line in lines(lambda: reap(workloads, answers)):
        message = json.loads(line)
        process = os.fork()
        if process == 0:
            answers.close()
            run(message["workload"], message.get("plugins"), processes)
        workloads[process] = message["id"]
        answers.write(json.dumps({"id": message["id"], "process": process}) + "\n")
    # Started by itself it would leave these to nobody.
    while workloads:
        reap(workloads, answers)
        time.sleep(0.1)


def lines(child_ended: Callable[[], None]) -> Iterator[bytes]:
    """Yield the lines of standard input as they come; call the function whenever a child has ended."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_inheritable(reading, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(reading, selectors.EVENT_READ)
    rest = b""
    while True:
        for key, _ in selector.select():
            if key.fd == reading:
                os.read(reading, 4096)
                child_ended()
                continue
            read = os.read(0, 2**20)
            if not read:
                return
            *complete, rest = (rest + read).split(b"\n")
            yield from complete


def reap(workloads: dict[int, str], answers: Any) -> None:
    """Say what has ended."""
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not process:
            return
        name = workloads.pop(process, None)
        if name is None:
            continue
        code = os.waitstatus_to_exitcode(status)
        # One that was killed has left its own children to this process.
        strangers = [child for child in psutil.Process().children() if child.pid not in workloads]
        end(strangers)
        answer: dict[str, Any] = {"id": name, "state": "failed" if code else "done"}
        if code:
            how = f"was ended by signal {-code}" if code < 0 else "failed: the journal of airflow-runner says why"
            answer["error"] = f"its supervisor {how}"
        answers.write(json.dumps(answer) + "\n")


def import_what_tasks_need() -> None:
    """Import what each would import first, and set up once what each would set up."""
    import airflow.dag_processing.dagbag
    import airflow.executors.base_executor
    import airflow.executors.workloads
    import airflow.providers.standard.operators.python
    import airflow.sdk.execution_time.supervisor
    import airflow.sdk.execution_time.task_runner  # noqa: F401
    from airflow.sdk.api.client import Client

    # It keeps the authorities that it has read, which takes 15 ms.
    Client(base_url="http://127.0.0.1", token="").close()


def use_plugins(folder: str) -> None:
    """Let the task load the plugins of its own release."""
    from airflow import settings

    sys.path[:] = [folder if path == settings.PLUGINS_FOLDER else path for path in sys.path]
    settings.PLUGINS_FOLDER = folder


def run(content: dict[str, Any], plugins: str | None, processes: int) -> NoReturn:
    """Be the supervisor of a workload, in a process of its own, and leave nothing of it behind."""
    code = FAILED
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        # Task output goes to the log, where secrets are masked, and never to the journal.
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        adopt_orphans()
        if plugins:
            use_plugins(plugins)
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
        # The kernel counts what the user has, so this is what the others have now and room to be seen with too many.
        most = threads_of_all_tasks() + 2 * processes
        os.register_at_fork(after_in_child=lambda: confine(most))
        from airflow.executors.base_executor import BaseExecutor
        from airflow.executors.workloads import ExecutorWorkload
        from pydantic import TypeAdapter

        BaseExecutor.run_workload(TypeAdapter(ExecutorWorkload).validate_python(content))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        end_descendants(os.getpid())
        os._exit(code)


def threads_of_all_tasks() -> int:
    """Count as the kernel does for its limit."""
    known = (process.info for process in psutil.process_iter(["uids", "num_threads"]))
    return sum(info["num_threads"] or 1 for info in known if info["uids"] and info["uids"].real == os.getuid())


def adopt_orphans() -> None:
    """Become the parent of all that descends from here and loses its own."""
    libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants(process: int) -> None:
    """End all that descends from a process."""
    for _ in range(200):
        try:
            # Whoever has no child has no descendant either: orphans come to it.
            while process == os.getpid() and os.waitpid(-1, os.WNOHANG)[0]:
                pass
            left = [child for child in psutil.Process(process).children(recursive=True) if living(child)]
        except (ChildProcessError, psutil.NoSuchProcess):
            return
        if not left:
            return
        end(left)
        time.sleep(0.01)


def living(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end(processes: Iterable[psutil.Process]) -> None:
    """End processes that may be forking: what is stopped forks no more."""
    processes = list(processes)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)


def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


_confined = False


def confine(most: int) -> None:
    """Let a task write to its own places alone, signal its own processes alone (Landlock, from Linux 5.13), and fork
    no more once its user has `most` processes.

    All of it holds for the task and not for its supervisor.
    """
    global _confined
    if _confined:
        return
    _confined = True
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    create_ruleset, add_rule, restrict_self = 444, 445, 446
    call = libc().syscall
    version = call(create_ruleset, None, ctypes.c_size_t(0), 1)
    if version < 1:
        print(f"tasks are not confined: Landlock says {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        return
    # WRITE_FILE, REMOVE_* and MAKE_*; REFER from version 2, TRUNCATE from 3.
    access = 0b1_1111_1111_0010 | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    # Signals and abstract sockets from version 6.
    scoped = 0b11 if version >= 6 else 0
    attributes = struct.pack("QQQ", access, 0, scoped)[: 24 if version >= 6 else 8]
    rules = call(create_ruleset, attributes, ctypes.c_size_t(len(attributes)), 0)
    for path in [*WRITABLE, os.environ["HOME"], *sys.argv[2:]]:
        try:
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        call(add_rule, rules, 1, struct.pack("=Qi", access, folder), 0)
        os.close(folder)
    if rules < 0 or call(restrict_self, rules, 0):
        print(f"the task cannot be confined: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        os._exit(FAILED)
    os.close(rules)
    # The runner may look at how much memory this holds; other tasks may not, since each is confined.
    libc().prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


if __name__ == "__main__":
    main()
