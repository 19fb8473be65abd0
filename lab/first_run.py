"""`make lab`: each step with what it does and how long it usually takes, with the full output in a log."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOG = ROOT / "build" / "lab.log"
# Seconds between progress lines where output is not a terminal.
SILENT_SECONDS = 20
LAST_LINES = 25


@dataclass(frozen=True)
class Step:
    """What is done, how many seconds it usually takes on two cores with warm caches, and the commands, side by side."""

    says: str
    usual: int
    commands: Sequence[Sequence[str]]


LAB = (sys.executable, "-m", "lab")
PLAYBOOK = (*LAB, "run", "ansible-playbook")
TRADE = (*LAB, "trade")
RUN = (*PLAYBOOK, "playbooks/run.yml", "-e")
STEPS = [
    Step("Start a small AWS on this machine", 10, [(*LAB, "up")]),
    Step("Create key pair, role, bucket and instance (provision.yml)", 35, [(*PLAYBOOK, "playbooks/provision.yml")]),
    Step("Install PostgreSQL, Airflow and nginx (site.yml)", 110, [(*PLAYBOOK, "playbooks/site.yml")]),
    Step(
        "Collect posts onto S3 (the DAG twitter); mail the business report of a shop's fortnight (daily_report)",
        55,
        [(*RUN, "dag=twitter"), ("sh", "-c", f"{shlex.join(TRADE)} && {shlex.join((*RUN, 'dag=daily_report'))}")],
    ),
]
BEFORE = """This boots a Debian machine on a small AWS of its own and deploys Airflow to it. About {minutes} minutes.
It needs root, 2 cores, 4 GiB of memory and 15 GiB of disk, and installs what `make setup` lists. It writes below
/var/lib/airstrip and /var/cache/airstrip, and adds a network bridge; `make lab-down` removes the lab.
Everything that is said in detail goes to {log}.
"""
AFTER = """
  Try next
    make lab-check       the doctor: what is well, what is not, and what fixes it
    make lab-ssh         then: sudo airstrip status
    make lab-shell       then: ansible-playbook playbooks/update.yml --check --diff
  Remove it: make lab-down
"""


class Progress:
    """The line of a step: its last task, and its seconds."""

    def __init__(self, number: int, step: Step) -> None:
        self.title = f"[{number}/{len(STEPS)}] {step.says}"
        self.usual, self.task = step.usual, ""
        self.began = self.told = time.monotonic()
        self.in_place = sys.stdout.isatty()
        print(f"{self.title}, usually {step.usual} s", flush=True)

    def show(self) -> None:
        """Show progress: in place on a terminal, else now and then."""
        now = time.monotonic()
        if self.in_place:
            print(f"\r\x1b[K      {now - self.began:.0f} s  {self.task[:90]}", end="", flush=True)
        elif now - self.told >= SILENT_SECONDS:
            self.told = now
            print(f"      {now - self.began:.0f} s  {self.task}", flush=True)

    def end(self, well: bool) -> None:
        """Say how long it took."""
        start = "\r\x1b[K" if self.in_place else ""
        print(f"{start}      {'done' if well else 'failed'} after {time.monotonic() - self.began:.0f} s", flush=True)


def logged(command: Sequence[str], environment: dict[str, str], progress: Progress) -> list[str]:
    """Run a command, its output into the log; return the last lines of one that failed."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **streams)
    last: deque[str] = deque(maxlen=LAST_LINES)
    with LOG.open("a", buffering=1) as log:
        for line in process.stdout or ():
            log.write(line)
            last.append(line.rstrip("\n"))
            if task := re.match(r"TASK \[(?:\w+ : )?(.+?)\] \*", line):
                progress.task = task[1]
    return ([*last] or ["It said nothing."]) if process.wait() else []


def carry_out(number: int, step: Step) -> list[str]:
    """Take a step; return the last lines of what failed."""
    progress = Progress(number, step)
    over = threading.Event()

    def tick() -> None:
        while not over.wait(1):
            progress.show()

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    # With skipped tasks Ansible names a task when it begins, not when it has ended.
    told = {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "1", "PYTHONUNBUFFERED": "1"}
    environment = {**os.environ, **told}
    with ThreadPoolExecutor() as threads:
        failures = [*threads.map(lambda command: logged(command, environment, progress), step.commands)]
    over.set()
    ticker.join()
    progress.end(not any(failures))
    return [line for failure in failures for line in failure]


def main() -> int:
    """Take all steps, then say where to look; a failure says what to do."""
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text("")
    print(BEFORE.format(minutes=round(sum(step.usual for step in STEPS) / 60), log=LOG.relative_to(ROOT)))
    began = time.monotonic()
    for number, step in enumerate(STEPS, start=1):
        if failure := carry_out(number, step):
            print("\n".join(["", *failure, ""]))
            print(f"lab: stopped at step {number}. Fix what is said above and run `make lab` again: it goes on there.")
            return 1
    print(f"\n{'─' * 79}\n  Your Airflow is up, after {(time.monotonic() - began) / 60:.0f} minutes\n", flush=True)
    code = subprocess.run([*LAB, "result"], cwd=ROOT, check=False).returncode
    print(f"{AFTER}{'─' * 79}")
    return code


if __name__ == "__main__":
    sys.exit(main())
