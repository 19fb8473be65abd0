"""Commands and background processes of the lab."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from lab.settings import LabError


def run(*command: str | Path, stdin: str | None = None) -> str:
    """Run a command and return its output; an error contains the command's output."""
    result = subprocess.run([str(word) for word in command], input=stdin, text=True, capture_output=True, check=False)
    if result.returncode:
        raise LabError(f"{' '.join(map(str, command))[:200]}: {(result.stderr or result.stdout).strip()[-2000:]}")
    return result.stdout


def process(pid_file: Path) -> psutil.Process | None:
    """The process a pid file names, if it is still that very process."""
    try:
        pid, started = pid_file.read_text().split()
        process = psutil.Process(int(pid))
        if process.create_time() == float(started) and _lives(process):
            return process
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        pass
    return None


def start(pid_file: Path, command: list[str], environment: dict[str, str] | None = None) -> bool:
    """Start a background process unless it runs; return whether it was started."""
    if process(pid_file):
        return False
    pid_file.parent.mkdir(parents=True, exist_ok=True)
    with pid_file.with_suffix(".log").open("w") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    pid_file.write_text(f"{child.pid} {psutil.Process(child.pid).create_time()}")
    return True


def stop(pid_file: Path, seconds: float = 60) -> None:
    """Stop a background process that `start` began, gently first."""
    if running := process(pid_file):
        running.send_signal(signal.SIGTERM)
        if not _end([running], seconds):
            family = [*running.children(recursive=True), running]
            for each in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            _end(family, 10)
    pid_file.unlink(missing_ok=True)


def _end(processes: list[psutil.Process], seconds: float) -> bool:
    """Wait until processes have ended; return whether they have. Their parents may never reap them."""
    deadline = time.monotonic() + seconds
    while any(_lives(each) for each in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def locked(file: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock file; a second process waits, or with `wait=False` gets a BlockingIOError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def wait_for(what: str, probe, seconds: float, log: Path | None = None) -> None:
    """Call `probe` until it returns something true."""
    end = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > end:
            tail = f"; the end of {log}:\n{log.read_text()[-1500:]}" if log and log.exists() else ""
            raise LabError(f"{what} did not come up in {seconds:.0f} s{tail}")
        time.sleep(0.2)
