"""What befalls a machine: killed updates, outages, restarts, Airflow's own examples, a day of 200 MB."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import IPv4Network
from pathlib import Path

from lab import __main__ as commands
from lab import instance
from lab.settings import BUCKET, Lab
from lab.shop import seed
from tests.bench.etl import write_receipts
from tests.bench.faults import seconds_until_it_schedules
from tests.e2e import load
from tests.e2e.conftest import Place
from tests.e2e.load import DENSE, Load
from tests.e2e.runs import TODAY, instances, start, unpause, wait
from tests.e2e.updates import begin, killed, live, whole
from tests.server import ROOT, Server
from tests.soak import FOLDER

KILLS = 30
# An update takes about this long.
LONGEST_SECONDS = 6
OUTAGES = {
    "database_away_120_s": ("systemctl stop postgresql@17-main", 120, "systemctl start postgresql@17-main"),
    "api_server_away_180_s": (
        "systemctl stop airflow-api-server.socket 'airflow-api-server@*'",
        180,
        "systemctl start airflow.target",
    ),
}
RESTARTS = 20
RESTART_SECONDS = 30
EXAMPLES_SECONDS = 900


@contextlib.contextmanager
def empty_lab() -> Iterator[Place]:
    """A lab without a machine."""
    lab = Lab("stripsoak", IPv4Network("10.203.3.0/24"))
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    commands.down(lab)
    try:
        commands.up(lab)
        place = Place()
        place.lab = lab
        yield place
    finally:
        commands.down(lab)


@contextlib.contextmanager
def machine(of_load: bool = True) -> Iterator[tuple[Server, Path]]:
    """A machine with everything on it, and the DAGs of the load live or the two pipelines; and the load's source."""
    with empty_lab() as place:
        server = place.deployed("debian13")
        source = load.source(FOLDER / "source")
        if of_load:
            server.play("update.yml", "-e", f"release_source={source}")
        yield server, source


def updates() -> None:
    """Kill update.yml at random moments under load: each time the live release is whole and the next run heals it."""
    moments = random.Random(1)
    with machine() as (server, source):
        ship = ["update.yml", "-e", f"release_source={source}"]
        kills = broken = healed = 0
        with Load(server, every=10, **DENSE) as run:
            for number in range(1, KILLS + 1):
                seconds = moments.uniform(0.5, LONGEST_SECONDS)
                process = begin(server, source)
                time.sleep(seconds)
                was_running = process.poll() is None
                kills += was_running
                with killed(process) if was_running else contextlib.nullcontext():
                    broken += not whole(server)
                    server.play(*ship)
                    healed += server.play(*ship).changed == 0
                print(f"{number:>3} killed after {seconds:.1f} s: {was_running}; live: {live(server)}", flush=True)
        run.wait()
        print(f"updates_killed {kills} of {KILLS}\nupdates_broken {broken}\nupdates_healed {healed} of {KILLS}")
        print(f"tasks_lost {len(run.lost())}")


def outages() -> None:
    """Keep PostgreSQL away for two minutes and the API server for three, while tasks run without retries."""
    with machine() as (server, _):
        for name, (stop, seconds, start) in OUTAGES.items():
            with Load(server, seconds=(25,), every=60, **DENSE) as run, run.held() as held:
                server.run(f"{stop}; sleep {seconds}")
                back = seconds_until_it_schedules(run, start)
                state = f"SELECT state, try_number FROM task_instance WHERE run_id = '{held}' AND task_id = 'hold'"
                print(f"{name}: scheduling again after {back:.1f} s, the held task is {server.sql(state)}", flush=True)
            run.wait()
            print(f"{name}: {run.tasks()} tasks, lost {run.lost()}", flush=True)


def restarts() -> None:
    """Restart everything twenty times while tasks of 1 s to 10 minutes run, without retries."""
    with machine() as (server, _):
        with Load(server, seconds=(1, 1, 5, 20, 60), every=15, **DENSE) as run:
            run.start("walkers", seconds=600)
            for _ in range(RESTARTS):
                server.run("airflow-restart")
                time.sleep(RESTART_SECONDS)
        run.wait(3600)
        print(f"restarts {RESTARTS}: {run.tasks()} tasks, lost {run.lost()}, failed requests {run.failed_requests}")
        print(f"restarts {RESTARTS}: longest pause {max(run.delays()):.1f} s")


def examples() -> None:
    """Run Airflow's own example DAGs that need neither a network nor plugins, and print how each ends."""
    with machine() as (server, source):
        for module in ("airflow.example_dags", "airflow.providers.standard.example_dags"):
            shutil.copytree(
                packages() / module.replace(".", "/"),
                source / "dags" / f"{module.split('.')[-2]}_examples",
                ignore=ignored,
            )
        for path in refused(server, source):
            print(f"left out, as the gate refuses it here: {path}")
            (source / path).unlink()
        server.play("update.yml", "-e", f"release_source={source}")
        dags = server.sql("SELECT dag_id FROM dag WHERE NOT is_stale AND fileloc LIKE '%/example_%'").split()
        ids = ", ".join(f"'{dag}'" for dag in dags)
        server.sql(f"UPDATE dag SET is_paused = false WHERE dag_id IN ({ids})")
        url = f"{server.url}/api/v2/dags"
        for dag in dags:
            answer = server.logged_in.post(f"{url}/{dag}/dagRuns", json={"logical_date": None, "conf": {}})
            if answer.status_code != 200:
                print(f"{dag}: not begun, {answer.text[:200]}")
        left = f"SELECT count(*) FROM dag_run WHERE dag_id IN ({ids}) AND state IN ('queued', 'running')"
        ends = time.monotonic() + EXAMPLES_SECONDS
        while server.sql(left) != "0" and time.monotonic() < ends:
            time.sleep(5)
        states = server.sql(f"SELECT dag_id, state FROM dag_run WHERE dag_id IN ({ids}) ORDER BY 2, 1").split()
        print("\n".join(state for state in states if not state.endswith("|success")))
        print(f"examples_green {sum(state.endswith('|success') for state in states)} of {len(states)}")


def packages() -> Path:
    """The packages that Airflow is installed with on this machine."""
    return next((ROOT / "build" / "airflow" / "lib").glob("python3*/site-packages"))


def ignored(folder: str, names: list[str]) -> set[str]:
    """What an example needs Airflow itself for: its plugins."""
    return {name for name in names if name in ("plugins", "__pycache__", "libs")}


def refused(server: Server, source: Path) -> list[str]:
    """The files that the gate names: what they ask for is not on the host."""
    process = server.begin("update.yml", "-e", f"release_source={source}")
    output, _ = process.communicate()
    return sorted(set(re.findall(r"dags/\w+_examples/\w+\.py", output))) if process.returncode else []


def receipts() -> None:
    """Report a day of 200 MB on a t3.small: through S3, the staging table and the warehouse."""
    with machine(of_load=False) as (server, _):
        day, path = TODAY - timedelta(days=2), FOLDER / "receipts.csv"
        rows = write_receipts(path, str(day))
        server.aws("s3").upload_file(str(path), BUCKET, seed.receipts_key(day))
        killed_before = instance.killed_for_memory(server.lab, server.instance["InstanceId"])
        unpause(server, server.logged_in, "daily_report")
        run = start(server, server.logged_in, "daily_report", day, mail=False)
        wait(server, server.logged_in, "daily_report", run, "success", seconds=3600)
        for task in sorted(
            instances(server, server.logged_in, "daily_report", run), key=lambda one: one["start_date"] or ""
        ):
            if (task["duration"] or 0) > 5:
                print(f"{task['task_id']}: {task['duration']:.0f} s")
        loaded = server.sql(f"select count(*) from sales where day = '{day}' and channel = 'shops'", "warehouse")
        killed_now = instance.killed_for_memory(server.lab, server.instance["InstanceId"])
        print(f"receipts_loaded {loaded} of {rows}")
        print(f"receipts_killed_for_memory {killed_now - killed_before}")
