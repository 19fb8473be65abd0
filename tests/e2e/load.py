"""Runs and requests that go on while the server is updated and restarted."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from tests.server import ROOT, Server, wait_until

DAGS = Path(__file__).parent / "dags"


def source(folder: Path) -> Path:
    """A checkout that holds a copy of the project's DAGs and those of the load, committed."""
    for part in ("dags", "etl"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(DAGS / "load_dag.py", folder / "dags")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=The DAGs of the load")
    return folder


def git(folder: Path, *arguments: str) -> str:
    """Run git in a checkout, as nobody in particular."""
    somebody = ["-c", "user.name=Load", "-c", "user.email=load@lab"]
    command = ["git", "-C", str(folder), *somebody, *arguments]
    return subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip()


# For measuring: the seconds between polls, and between pulses.
DENSE = {"poll": 0.1, "pulse": 0.5}


class Load:
    """While it is entered: a steady `poll` through nginx, a `pulse`, and `walkers` every few seconds.

    Sparse by default, which leaves the processor to what is tested.
    """

    def __init__(
        self,
        server: Server,
        seconds: tuple[float, ...] = (1, 2, 4),
        every: float = 10,
        poll: float = 0.5,
        pulse: float = 4,
    ) -> None:
        self.server, self.seconds = server, seconds
        self.jobs = ((self._poll, poll), (self._beat, pulse), (self._walk, every))
        self.requests: Counter[str] = Counter()
        self.runs: list[str] = []
        self._end = threading.Event()
        self._random = random.Random(1)

    def __enter__(self) -> Load:
        self.api = self.server.logged_in
        self.began = self.server.sql("SELECT clock_timestamp()")
        self.threads = [threading.Thread(target=self._repeat, args=job, daemon=True) for job in self.jobs]
        self.start("sleepers", seconds=self.seconds[0])
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self.threads:
            thread.join()

    def start(self, dag: str, **parameters: Any) -> str:
        """Start a run and return its id; the API server answers or the load counts it."""
        body = {"logical_date": None, "conf": parameters}
        try:
            answer = self.api.post(f"{self.server.url}/api/v2/dags/{dag}/dagRuns", json=body, timeout=60)
            self.requests[str(answer.status_code)] += 1
            if answer.status_code == 200:
                self.runs.append(answer.json()["dag_run_id"])
                return answer.json()["dag_run_id"]
        except requests.RequestException as error:
            self.requests[type(error).__name__] += 1
        return ""

    def wait(self, seconds: float = 600) -> None:
        """Wait until no run is left."""
        left = "SELECT count(*) FROM dag_run WHERE state IN ('queued', 'running')"
        wait_until(lambda: self.server.sql(left) == "0", seconds, "runs never end", every=2)

    @contextlib.contextmanager
    def held(self) -> Iterator[str]:
        """A run whose first task, `hold`, goes on until the end of the block; gives the run's id."""
        gate = f"/run/gate-{uuid.uuid4()}"
        run = self.start("holders", gate=gate)
        running = f"SELECT count(*) FROM task_instance WHERE run_id = '{run}' AND state = 'running'"
        try:
            wait_until(lambda: self.server.sql(running) == "1", 180, f"the first task of {run} does not run")
            yield run
        finally:
            self.server.run(f"touch {gate}")

    @property
    def failed_requests(self) -> dict[str, int]:
        return {name: count for name, count in self.requests.items() if name != "200"}

    def lost(self) -> list[str]:
        """Runs requested but missing, or there but not requested, and tasks without success on their first try."""
        there = set(self.server.sql(f"SELECT run_id FROM dag_run r WHERE {self.mine}").split())
        tasks = self.server.sql(
            "SELECT dag_id, task_id, t.id, t.state, try_number FROM task_instance t JOIN dag_run r "
            f"USING (dag_id, run_id) WHERE {self.mine} AND (t.state IS DISTINCT FROM 'success' OR try_number > 1)"
        )
        # A request that failed may have begun a run all the same.
        twice = [] if self.failed_requests else sorted(there - set(self.runs))
        return [run for run in self.runs if run not in there] + twice + tasks.splitlines()

    def mixed(self) -> list[str]:
        """Results from a release other than the one their run began with."""
        return self.server.sql(
            "SELECT x.dag_id, x.task_id, r.bundle_version, x.value FROM xcom x JOIN dag_run r USING (dag_id, run_id) "
            f"WHERE {self._told} AND x.value #>> '{{}}' "
            "IS DISTINCT FROM r.bundle_version || ' ' || r.bundle_version"
        ).splitlines()

    def results(self) -> int:
        """How many tasks told their release."""
        return int(
            self.server.sql(f"SELECT count(*) FROM xcom x JOIN dag_run r USING (dag_id, run_id) WHERE {self._told}")
        )

    def tasks(self) -> int:
        """How many tasks ran; those of `pulse` are noted by the scheduler alone."""
        mine = f"{self.mine} AND dag_id <> 'pulse'"
        query = f"SELECT count(*) FROM task_instance JOIN dag_run r USING (dag_id, run_id) WHERE {mine}"
        return int(self.server.sql(query))

    def delays(self) -> list[float]:
        """Seconds from each pulse to its end, which only a scheduler at work brings about; in their order."""
        pulses = f"FROM dag_run r WHERE {self.mine} AND dag_id = 'pulse' ORDER BY queued_at"
        return [
            float(each) for each in self.server.sql(f"SELECT extract(epoch FROM end_date - queued_at) {pulses}").split()
        ]

    @property
    def mine(self) -> str:
        """Selects this load's runs."""
        return f"r.queued_at >= '{self.began}'"

    @property
    def _told(self) -> str:
        return f"{self.mine} AND x.key = 'return_value' AND x.task_id NOT IN ('lengths', 'prefix')"

    def _repeat(self, job, pause: float) -> None:
        while not self._end.wait(pause):
            job()

    def _poll(self) -> None:
        try:
            # A connection of its own each time, as a new visitor has.
            answer = requests.get(f"{self.server.url}/api/v2/version", verify=self.api.verify, timeout=60)
            self.requests[str(answer.status_code)] += 1
        except requests.RequestException as error:
            self.requests[type(error).__name__] += 1

    def _beat(self) -> None:
        self.start("pulse")

    def _walk(self) -> None:
        self.start("walkers", seconds=self._random.choice(self.seconds))
