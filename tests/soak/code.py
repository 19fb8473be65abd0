"""What needs no machine: code that is changed, other Pythons, a thousand orders of one day."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.server import ROOT
from tests.soak import FOLDER

CONTROLLERS = ["3.11", "3.12", "3.13"]
ORDERS = 1000
MODULES = "select distinct module_path from mutation_specs"
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
    Mutated("etl/x", f"{UNIT} tests/unit/test_x_rows.py tests/unit/test_twitter_etl.py tests/unit/test_x_users.py "
            "tests/unit/test_x_extract.py tests/unit/test_x_budget.py tests/unit/test_x_publish.py "
            "tests/unit/test_x_manifest.py "
            "tests/unit/test_x_client.py tests/unit/test_x_refusals.py tests/unit/test_x_summary.py "
            "tests/unit/test_x_paging.py tests/unit/test_x_command.py",
            "roles/airflow/files/airstrip:."),
    Mutated("etl/report", f"{UNIT} tests/unit/test_report_combining.py tests/unit/test_report_cleaning.py "
            "tests/unit/test_report_pictures.py tests/unit/test_daily_report.py "
            "tests/unit/test_warehouse.py", "roles/airflow/files/airstrip:."),
    Mutated("etl/contract.py", f"{UNIT} tests/unit/test_contract.py", "roles/airflow/files/airstrip:."),
    Mutated("roles/base/library/file_tree.py", f"{sys.executable} -m pytest -q -x tests/policy/test_tree.py"),
]  # fmt: skip


def mutants() -> None:
    """Change the Python of platform and pipelines bit by bit, in a copy of the tree; print which changes no test sees.

    AIRSTRIP_MUTANTS=100 tries so many of each, chosen at random; AIRSTRIP_MUTATED=etl/x those of one folder alone.
    """
    tree = FOLDER / "tree"
    for mutated in [one for one in MUTATED if os.environ.get("AIRSTRIP_MUTATED", "") in one.path]:
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
        for command in (["init", "soak.toml", "soak.sqlite"], ["baseline", "soak.toml"]):
            subprocess.run(["cosmic-ray", *command], cwd=tree, env=environment, check=True)
        sample(tree, int(os.environ.get("AIRSTRIP_MUTANTS", "0")))
        subprocess.run(["cosmic-ray", "exec", "soak.toml", "soak.sqlite"], cwd=tree, env=environment, check=True)
        dump = subprocess.run(
            ["cosmic-ray", "dump", "soak.sqlite"], cwd=tree, text=True, capture_output=True, check=True
        )
        tell(mutated, [json.loads(line) for line in dump.stdout.splitlines()])


def sample(tree: Path, most: int) -> None:
    """Leave so many changes to try, chosen at random; 0 leaves all that can make a difference.

    Nothing runs an annotation, and of two equal constants `is` says what `==` does.
    """
    with contextlib.closing(sqlite3.connect(tree / "soak.sqlite")) as connection, connection:
        changes = connection.execute(
            "select job_id, module_path, start_pos_row, start_pos_col from mutation_specs "
            "where operator_name not like '%Eq_Is' and operator_name not like '%NotEq_IsNot'"
        )
        unread = {module: annotations(tree / module) for (module,) in connection.execute(MODULES)}
        ran = [job for job, module, *place in changes if not any(a <= tuple(place) < b for a, b in unread[module])]
        kept = random.sample(ran, min(most or len(ran), len(ran)))
        connection.execute("create temporary table kept (job_id)")
        connection.executemany("insert into kept values (?)", [(job,) for job in kept])
        for table in ("mutation_specs", "work_items"):
            connection.execute(f"delete from {table} where job_id not in (select job_id from kept)")


def annotations(module: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where a module's annotations begin and end, as lines and columns."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, (ast.arg, ast.AnnAssign)):
            found.append(node.annotation)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append(node.returns)
    return [((one.lineno, one.col_offset), (one.end_lineno, one.end_col_offset)) for one in found if one]


def tell(mutated: Mutated, results: list[list[dict]]) -> None:
    """Print the share of changes that the tests saw, and each that they did not."""
    done = [(work["mutations"][0], result) for work, result in results if result]
    survivors = [mutation for mutation, result in done if result["test_outcome"] == "survived"]
    for mutation in survivors:
        line = mutation["start_pos"][0]
        print(f"survived: {Path(mutation['module_path'])}:{line} {mutation['operator_name']}")
    killed = len(done) - len(survivors)
    print(f"{mutated.path}: mutants_killed_percent {100 * killed / max(1, len(done)):.0f} ({killed} of {len(done)})")


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


def orders() -> None:
    """Cut off, rerun and mix the users of a day in a thousand random orders: the same bytes and the same bill."""
    environment = {**os.environ, "AIRSTRIP_ORDERS": str(ORDERS), "PYTHONPATH": "roles/airflow/files/airstrip:."}
    command = [*UNIT.split()[:-1], "tests/unit/test_x_extract.py", "-k", "test_any_order"]
    said = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False).stdout
    print(f"orders_same: {said.strip().splitlines()[-1]}")
