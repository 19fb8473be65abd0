"""`make soak`: what needs many trials or hours. It prints figures and is no part of CI."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from lab import __main__ as commands
from lab.settings import Lab
from tests.e2e import load
from tests.e2e.conftest import Place
from tests.e2e.load import Load
from tests.e2e.updates import begin, killed, live, whole
from tests.server import ROOT

FOLDER = ROOT / "build" / "trials"
CONTROLLERS = ["3.11", "3.12", "3.13"]
KILLS = 30
# An update takes about this long.
LONGEST_SECONDS = 6
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
    Mutated("playbooks/module_utils", f"{sys.executable} -m pytest -q -x tests/policy/test_releases.py"),
    Mutated("playbooks/library/tree.py", f"{sys.executable} -m pytest -q -x tests/policy/test_tree.py"),
]  # fmt: skip


def updates() -> None:
    """Kill update.yml at random moments under load: each time the live release is whole and the next run heals it."""
    lab = Lab("stripsoak", IPv4Network("10.203.3.0/24"))
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    moments = random.Random(1)
    commands.down(lab)
    try:
        commands.up(lab)
        place = Place()
        place.lab = lab
        server = place.deployed("debian13")
        source = load.source(FOLDER / "source")
        ship = ["update.yml", "-e", f"release_source={source}"]
        server.play(*ship)
        kills = broken = healed = 0
        with Load(server, every=10) as run:
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
    finally:
        commands.down(lab)


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


GROUPS: dict[str, Callable[[], None]] = {"updates": updates, "mutants": mutants, "controllers": controllers}

if __name__ == "__main__":
    for name in sys.argv[1:] or GROUPS:
        GROUPS[name]()
