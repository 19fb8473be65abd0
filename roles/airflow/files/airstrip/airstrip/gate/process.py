"""Each DAG file of a release in a process of its own, within its seconds and megabytes.

As in the DAG processor, a file cannot rely on what another has imported, and may end its process. What its process says
is read as data, and counts for that file only.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import re
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import psutil

from airstrip.gate.dag_file import Finding, look
from airstrip.release.tree import printable

# What a process that imports a DAG file usually takes, in MB.
FILE_MB = 200
# More than any file has to say.
ANSWER_BYTES = 2**22
MOST_PROBLEMS = 20
PAUSE_SECONDS = 0.1
# Time for Airflow's own limit to end a file, beyond twice that limit.
GRACE_SECONDS = 30
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
PR_SET_DUMPABLE = 4


@dataclass
class Process:
    """The process of one file, in a session of its own."""

    release: Path
    file: str
    number: int
    answer: int
    trace: int
    began: float = field(default_factory=time.monotonic)
    said: bytes = b""
    base_mb: float = 0
    peak_mb: float = 0
    over: str = ""

    @property
    def name(self) -> str:
        """The file, as seen from the release."""
        return str(Path(self.file).relative_to(self.release))

    def read(self) -> None:
        """Take what it has said so far; it may say too much, and what it has started may hold the pipe."""
        with contextlib.suppress(BlockingIOError):
            while len(self.said) <= ANSWER_BYTES and (part := os.read(self.answer, 2**16)):
                self.said += part
        if not self.base_mb and b"\n" in self.said:
            # Written before the file runs.
            base, _, self.said = self.said.partition(b"\n")
            self.base_mb = float(base)

    def bound(self, seconds: float, megabytes: int) -> None:
        """End it if it exceeds its limits."""
        if self.base_mb:
            now = sum(max(0, rss_mb(number) - self.base_mb) for number in family(self.number))
            self.peak_mb = max(self.peak_mb, now)
        if self.peak_mb > megabytes:
            self.end(f"takes more than {megabytes} MB to import: read data in a task, or raise release_import_mb")
        elif time.monotonic() - self.began > seconds:
            # Deaf to Airflow's own time limit, as code in C can be.
            self.end(f"does not end within {seconds:.0f} s, and is deaf to Airflow's time limit")
        elif len(self.said) > ANSWER_BYTES:
            self.end("says more than a DAG file can have to say")

    def end(self, why: str) -> None:
        """End the process and what it has started, once it has said where it is."""
        if not self.over:
            self.over = why
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.number, signal.SIGUSR1)
                time.sleep(0.2)
        self.kill()

    def kill(self) -> None:
        """Kill the whole session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.number, signal.SIGKILL)

    def ended(self) -> bool:
        """Return whether it is no more."""
        return os.waitid(os.P_PID, self.number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def finding(self) -> Finding:
        """Return what it found, once it has ended."""
        self.kill()
        self.read()
        _, status, usage = os.wait4(self.number, 0)
        self.peak_mb = max(self.peak_mb, usage.ru_maxrss / 1024 - (self.base_mb or usage.ru_maxrss / 1024))
        os.close(self.answer)
        try:
            if not self.over:
                return checked(self.name, json.loads(self.said))
        except ValueError:
            code = os.waitstatus_to_exitcode(status)
            self.over = f"ends the Python that imports it (exit code {code})"
        finally:
            where = self.where()
            os.close(self.trace)
        return Finding(problems=[f"{where}: {self.over}"])

    def where(self) -> str:
        """Return `file:line` of what it did last, as far as it is known."""
        text = os.pread(self.trace, 2**16, 0).decode(errors="replace")
        frame = re.search(rf'File "{re.escape(str(self.release))}/([^"]+)", line (\d+)', text)
        return f"{frame[1]}:{frame[2]}" if frame else self.name


def examined(release: Path, files: list[str], seconds: float, megabytes: int) -> Iterator[tuple[Process, Finding]]:
    """Yield each file's process and finding, as many at once as processors and free memory allow.

    `seconds` is Airflow's limit for one file.
    """
    # So that no file's process can write or read into this one.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)
    # Existing objects stay, in each file's process too: only the file's own may be garbage.
    gc.freeze()
    waiting, running = list(reversed(files)), []
    limit = GRACE_SECONDS + 2 * seconds
    while waiting or running:
        while waiting and len(running) < at_once(len(running)):
            running.append(start(release, waiting.pop()))
        select.select([process.answer for process in running if not process.over], [], [], PAUSE_SECONDS)
        for process in list(running):
            process.read()
            if process.ended():
                running.remove(process)
                yield process, process.finding()
            else:
                process.bound(limit, megabytes)


def at_once(running: int) -> int:
    """How many processes may import at once, if `running` do."""
    room = psutil.virtual_memory().available // 2**20 // FILE_MB
    return min(os.cpu_count() or 1, max(1, running + room))


def start(release: Path, file: str) -> Process:
    """Start the process of a file."""
    answer, question = os.pipe()
    trace = os.memfd_create("trace")
    number = os.fork()
    if not number:
        os.close(answer)
        report(question, trace, release, file)
    os.close(question)
    os.set_blocking(answer, False)
    return Process(release, file, number, answer, trace)


def report(question: int, trace: int, release: Path, file: str) -> NoReturn:
    """Say what a file holds, and end without what the file may have registered for the end."""
    leave = os._exit
    try:
        os.setsid()
        gc.enable()
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1)
        # What a file prints would mix with the verdict.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.write(question, f"{rss_mb(os.getpid())}\n".encode())
        faulthandler.enable(trace, all_threads=False)
        faulthandler.register(signal.SIGUSR1, trace, all_threads=False)

        def noted(code: int) -> NoReturn:
            faulthandler.dump_traceback(trace, all_threads=False)
            leave(code)

        os._exit = noted  # type: ignore[assignment]
        try:
            finding = look(release, Path(file))
        except Exception as error:
            finding = Finding(problems=[f"{Path(file).relative_to(release)}: the examination failed: {error!r}"])
        text = json.dumps(asdict(finding)).encode()
        while text:
            text = text[os.write(question, text) :]
    finally:
        leave(0)


def checked(name: str, said: Any) -> Finding:
    """Return what a file's process said, if it is a finding about this file. Raises ValueError."""
    shape = {"dags": list, "problems": list, "connections": dict, "pools": dict}
    if not isinstance(said, dict) or {key: type(value) for key, value in said.items()} != shape:
        raise ValueError(said)
    words = [*said["dags"], *said["problems"], *said["connections"].values(), *said["pools"].values()]
    places = [*said["connections"].values(), *said["pools"].values()]
    if not all(isinstance(word, str) for word in words) or not all(place.startswith(name) for place in places):
        raise ValueError(said)
    problems = [printable(problem) for problem in said["problems"][:MOST_PROBLEMS]]
    return Finding(said["dags"], problems, said["connections"], said["pools"])


def family(number: int) -> Iterator[int]:
    """Yield a process and what it has started."""
    yield number
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{number}/task/{number}/children").read_text().split():
            yield from family(int(child))


def rss_mb(number: int) -> float:
    """Return the memory of a process in MB; 0 if it is no more."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{number}/statm").read_text().split()[1]) * PAGE_MB
    return 0
