"""`make soak`: what needs many trials or hours. It prints figures and is no part of CI."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from lab import __main__ as commands
from lab.settings import Lab
from tests.bench.faults import seconds_until_it_schedules
from tests.e2e import load
from tests.e2e.conftest import Place
from tests.e2e.load import DENSE, Load
from tests.e2e.updates import begin, killed, live, whole
from tests.server import ROOT, Server

FOLDER = ROOT / "build" / "trials"
CONTROLLERS = ["3.11", "3.12", "3.13"]
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
UNIT = f"env AIRFLOW_HOME={ROOT}/build/airflow/home {ROOT}/build/airflow/bin/pytest -q -x"


@dataclass
class Mutated:
    """Code of the platform, the tests that must notice each change of it, and where these find the changed code."""

    path: str
    tests: str
    imports: str = "."


MUTATED = [
    Mutated("roles/airflow/files/airstrip/airstrip", f"{UNIT} tests/unit/test_airstrip.py tests/unit/test_mail.py "
            "tests/unit/test_notices.py", "roles/airflow/files/airstrip:."),
    Mutated("roles/airflow/files/airstrip/airstrip/release", f"{UNIT} tests/unit/test_release_engine.py "
            "tests/unit/test_release_lock.py tests/unit/test_release_tree.py", "roles/airflow/files/airstrip:."),
    Mutated("roles/base/library/file_tree.py", f"{sys.executable} -m pytest -q -x tests/policy/test_tree.py"),
]  # fmt: skip


@contextlib.contextmanager
def machine() -> Iterator[tuple[Server, Path]]:
    """A machine with everything on it and the DAGs of the load live, and their source."""
    lab = Lab("stripsoak", IPv4Network("10.203.3.0/24"))
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    commands.down(lab)
    try:
        commands.up(lab)
        place = Place()
        place.lab = lab
        server = place.deployed("debian13")
        source = load.source(FOLDER / "source")
        server.play("update.yml", "-e", f"release_source={source}")
        yield server, source
    finally:
        commands.down(lab)


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
        print(f"restarts {RESTARTS}: longest pause {run.delays()[-1]:.1f} s")


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


def mutants() -> None:
    """Change the platform's own Python bit by bit, in a copy of the tree, and print which changes no test sees."""
    tree = FOLDER / "tree"
    for mutated in MUTATED:
        shutil.rmtree(tree, ignore_errors=True)
        subprocess.run(["git", "clone", "--quiet", ROOT, tree], check=True)
        settings = {
            "module-path": mutated.path,
            "timeout": 120.0,
            "excluded-modules": [],
            "test-command": mutated.tests,
            "distributor": {"name": "local"},
        }
        (tree / "soak.toml").write_text(toml(settings))
        environment = {
            **os.environ,
            "PYTHONPATH": ":".join(str(tree / path) for path in mutated.imports.split(":")),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        # First without a change: tests that fail anyway would see every one.
        for command in (
            ["init", "soak.toml", "soak.sqlite"],
            ["baseline", "soak.toml"],
            ["exec", "soak.toml", "soak.sqlite"],
        ):
            subprocess.run(["cosmic-ray", *command], cwd=tree, env=environment, check=True)
        dump = subprocess.run(
            ["cosmic-ray", "dump", "soak.sqlite"], cwd=tree, text=True, capture_output=True, check=True
        )
        tell(mutated, [json.loads(line) for line in dump.stdout.splitlines()])


def tell(mutated: Mutated, results: list[list[dict]]) -> None:
    """Print the share of changes that the tests saw, and each that they did not."""
    done = [(work["mutations"][0], result) for work, result in results if result]
    survivors = [mutation for mutation, result in done if result["test_outcome"] == "survived"]
    for mutation in survivors:
        line = mutation["start_pos"][0]
        print(f"survived: {Path(mutation['module_path'])}:{line} {mutation['operator_name']}")
    killed = len(done) - len(survivors)
    print(f"{mutated.path}: mutants_killed_percent {100 * killed / max(1, len(done)):.0f} ({killed} of {len(done)})")


def controllers() -> None:
    """Run the quick tests on controllers with other Pythons: those of this machine that are on the PATH."""
    uv, folder = ROOT / ".venv" / "bin" / "uv", FOLDER / "controller"
    for version in CONTROLLERS:
        create = [uv, "venv", "--quiet", "--clear", "--no-python-downloads", "--python", version, folder]
        if subprocess.run(create, text=True, capture_output=True, check=False).returncode:
            print(f"controller_{version}: this machine has no Python {version}")
            continue
        environment = {**os.environ, "VIRTUAL_ENV": str(folder), "PATH": f"{folder}/bin:{os.environ['PATH']}"}
        sync = [uv, "pip", "sync", "--quiet", "--require-hashes", "requirements.txt"]
        subprocess.run(sync, cwd=ROOT, env=environment, check=True)
        tests = [folder / "bin" / "pytest", "--quiet", "tests/lint", "tests/policy", "tests/aws"]
        said = subprocess.run(tests, cwd=ROOT, env=environment, text=True, capture_output=True, check=False).stdout
        print(f"controller_{version}: {said.splitlines()[-1]}", flush=True)


def toml(settings: dict) -> str:
    """cosmic-ray's configuration: values are written as JSON, which is TOML too."""
    lines = ["[cosmic-ray]"]
    tables = []
    for name, value in settings.items():
        if isinstance(value, dict):
            tables += [f"[cosmic-ray.{name}]", *(f"{key} = {json.dumps(inner)}" for key, inner in value.items())]
        else:
            lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join([*lines, *tables]) + "\n"


GROUPS: dict[str, Callable[[], None]] = {
    "updates": updates,
    "outages": outages,
    "restarts": restarts,
    "examples": examples,
    "mutants": mutants,
    "controllers": controllers,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or GROUPS:
        GROUPS[name]()
