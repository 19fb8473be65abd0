"""Runs and requests that go on while the server is updated and restarted."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import requests

from tests.e2e.conftest import ROOT, Server

DAGS = Path(__file__).parent / "dags"


def source(folder: Path) -> Path:
    """A copy of the project's DAGs with those of the load."""
    for part in ("dags", "etl"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(DAGS / "load_dag.py", folder / "dags")
    return folder


class Load:
    """While it is entered: a steady poll through nginx, a `pulse` twice a second, and `walkers` every few seconds."""

    def __init__(self, server: Server, seconds: tuple[float, ...] = (1, 2, 4), every: float = 4) -> None:
        self.server, self.seconds, self.every = server, seconds, every
        self.requests: Counter[str] = Counter()
        self.runs: list[str] = []
        self._end = threading.Event()
        self._random = random.Random(1)

    def __enter__(self) -> Load:
        self.api = self.server.api()
        self.began = self.sql("SELECT clock_timestamp()")
        self.threads = [threading.Thread(target=self._repeat, args=job, daemon=True) for job in (
            (self._poll, 0.05), (self._beat, 0.5), (self._walk, self.every))]  # fmt: skip
        self.start("sleepers", seconds=self.seconds[1])
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self.threads:
            thread.join()

    def start(self, dag: str, **parameters: float) -> None:
        """Start a run; the API server answers or the load counts it."""
        body = {"logical_date": None, "conf": parameters}
        try:
            answer = self.api.post(f"{self.server.url}/api/v2/dags/{dag}/dagRuns", json=body, timeout=60)
            self.requests[str(answer.status_code)] += 1
            if answer.status_code == 200:
                self.runs.append(answer.json()["dag_run_id"])
        except requests.RequestException as error:
            self.requests[type(error).__name__] += 1

    def wait(self, seconds: float = 600) -> None:
        """Wait until no run is left."""
        deadline = time.monotonic() + seconds
        while left := int(self.sql("SELECT count(*) FROM dag_run WHERE state IN ('queued', 'running')")):
            assert time.monotonic() < deadline, f"{left} runs never end"
            time.sleep(2)

    @property
    def failed_requests(self) -> dict[str, int]:
        return {name: count for name, count in self.requests.items() if name != "200"}

    def lost(self) -> list[str]:
        """Runs that were asked for and are not there, and tasks that did not succeed at once."""
        there = set(self.sql(f"SELECT run_id FROM dag_run r WHERE {self.mine}").split())
        tasks = self.sql(
            "SELECT dag_id, task_id, map_index, t.state, try_number FROM task_instance t JOIN dag_run r "
            f"USING (dag_id, run_id) WHERE {self.mine} AND (t.state IS DISTINCT FROM 'success' OR try_number > 1)"
        )
        return [run for run in self.runs if run not in there] + tasks.splitlines()

    def mixed(self) -> list[str]:
        """Results that tell of another release than the one that their run began with."""
        return self.sql(
            "SELECT x.dag_id, x.task_id, r.bundle_version, x.value FROM xcom x JOIN dag_run r USING (dag_id, run_id) "
            f"WHERE {self._told} AND x.value #>> '{{}}' "
            "IS DISTINCT FROM r.bundle_version || ' ' || r.bundle_version"
        ).splitlines()

    def results(self) -> int:
        """How many tasks told their release."""
        return int(self.sql(f"SELECT count(*) FROM xcom x JOIN dag_run r USING (dag_id, run_id) WHERE {self._told}"))

    def delays(self) -> list[float]:
        """Seconds from each pulse to its end, which only a scheduler at work brings about."""
        query = f"SELECT extract(epoch FROM end_date - queued_at) FROM dag_run r WHERE {self.mine} AND dag_id = 'pulse'"
        return sorted(map(float, self.sql(query).split()))

    @property
    def mine(self) -> str:
        """What picks this load's runs."""
        return f"r.queued_at >= '{self.began}'"

    @property
    def _told(self) -> str:
        return f"{self.mine} AND x.key = 'return_value' AND x.task_id NOT IN ('lengths', 'prefix')"

    def sql(self, query: str) -> str:
        return self.server.run(f'runuser -u postgres -- psql -Atc "{query}" airflow').strip()

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
