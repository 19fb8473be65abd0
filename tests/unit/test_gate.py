"""The examination of a release: each file by itself, named with its line, and within its bounds."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from airstrip import live
from airstrip.gate import process, verdict
from tests.broken_trees import BROKEN, DAG, write

MEGABYTES = 300


@pytest.fixture
def release(tmp_path):
    folder = tmp_path / "releases" / "candidate"
    (folder / "dags").mkdir(parents=True)
    (folder / "shared").mkdir()
    (folder / "shared" / "numbers_of_ours.py").write_text("ANSWER = 42\n")
    (folder / ".airflowignore").write_text("shared/\n")

    def write(**files):
        for name, text in files.items():
            (folder / "dags" / f"{name}.py").write_text(text)
        return folder

    return write


@pytest.fixture(autouse=True)
def no_database(monkeypatch):
    monkeypatch.setattr(verdict, "absent", lambda findings: [])
    monkeypatch.setattr(live, "stranded", lambda dags: [])


def problems(folder):
    return verdict.examine(folder, MEGABYTES)["problems"]


def test_a_good_release_passes_and_its_dags_are_known(release):
    importing = "from shared.numbers_of_ours import ANSWER\nassert ANSWER == 42\n" + DAG.format(name="good")
    answer = verdict.examine(release(good=importing, other=DAG.format(name="other")), MEGABYTES)
    took = answer.pop("files")
    assert answer == {"dags": {"good": "dags/good.py", "other": "dags/other.py"}, "problems": []}
    assert set(took) == {"dags/good.py", "dags/other.py"}
    assert all(0 < file["seconds"] < 60 and 0 <= file["mb"] < MEGABYTES for file in took.values())


def test_a_file_cannot_forge_results_of_others(release):
    """A file's process can lie about itself alone, whatever it writes into its pipe."""
    forged = json.dumps({"dags": [], "problems": [], "connections": {"x": "dags/good.py:1"}, "pools": {}})
    claims = {
        "pickle": "b'cos\\nsystem\\n(S\"touch /tmp/forged\"\\ntR.'",
        "other": f"{forged.encode()!r}",
        "endless": "b'x' * 2**23",
    }
    text = """
import os
from airflow.sdk import DAG
links = {{}}
for name in os.listdir("/proc/self/fd"):
    if os.path.islink(f"/proc/self/fd/{{name}}"):
        links[int(name)] = os.readlink(f"/proc/self/fd/{{name}}")
os.write(max(number for number, target in links.items() if target.startswith("pipe:")), {lie})
os._exit(0)
"""
    liars = {name: text.format(lie=lie) for name, lie in claims.items()}
    folder = release(good=DAG.format(name="good"), **liars)
    answer = verdict.examine(folder, MEGABYTES)
    assert len(answer["problems"]) == 3 and answer["dags"] == {"good": "dags/good.py"}
    assert not Path("/tmp/forged").exists()


def test_what_a_file_prints_goes_nowhere(release, capfd):
    prints = "import os\n# airflow\nfor number in (1, 2):\n    os.write(number, b'x' * 10**6)\n"
    assert problems(release(prints=prints + DAG.format(name="prints"))) == []
    assert "xxx" not in "".join(capfd.readouterr())


def test_what_a_file_starts_ends_with_it(release):
    daemon = "import subprocess\n# airflow\nsubprocess.Popen(['sleep', '98765'])\n" + DAG.format(name="daemon")
    assert problems(release(daemon=daemon)) == []
    # A process that was killed is there for a moment.
    deadline = time.monotonic() + 30
    while (left := sleepers()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def sleepers():
    return [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == ["sleep", "98765"]]


def test_a_dag_that_names_a_fixed_date_is_stable(release):
    stable = DAG.format(name="stable").replace("schedule=None", "schedule=None, start_date=datetime(2026, 1, 1)")
    assert problems(release(stable="from datetime import datetime\n" + stable)) == []


NAMES = """
from airflow.sdk import Connection, dag, task
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

WAREHOUSE = "warehouse"

@dag(schedule=None)
def names():
    @task(pool="narrow")
    def read():
        Connection.get("x_api")
    read()
    SQLExecuteQueryOperator(task_id="load", sql="SELECT 1", conn_id=WAREHOUSE)
    SQLExecuteQueryOperator(task_id="templated", sql="SELECT 1", conn_id="{{ params.connection }}")
    SQLExecuteQueryOperator(task_id="own", sql="SELECT 1")

names()
"""


def test_the_connections_and_pools_that_a_dag_names_are_found(release):
    folder = release(names=NAMES)
    ((_, finding),) = process.examined(folder, [str(folder / "dags" / "names.py")], 30, MEGABYTES)
    assert finding.connections == {"x_api": "dags/names.py:11", "warehouse": "dags/names.py:5"}
    assert set(finding.pools) == {"narrow", "default_pool"}


@pytest.mark.parametrize(("free_mb", "running", "most"), [(10_000, 0, 4), (650, 0, 3), (50, 0, 1), (50, 2, 2)])
def test_the_gate_imports_no_more_at_once_than_memory_has_room_for(monkeypatch, free_mb, running, most):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(process.psutil, "virtual_memory", lambda: SimpleNamespace(available=free_mb * 2**20))
    assert process.at_once(running) == most


TIMETABLE = """
from airflow.plugins_manager import AirflowPlugin
from airflow.timetables.simple import NullTimetable


class Ours(NullTimetable):
    pass


class Plugin(AirflowPlugin):
    name = "ours"
    timetables = [Ours]
"""


def test_a_release_brings_its_plugins(release):
    """A DAG cannot be stored without its own timetable; a broken plugin is named with its line."""
    folder = release(
        ours=f"from airflow.sdk import DAG\nfrom ours import Ours\n{DAG.format(name='x')}".replace("None", "Ours()")
    )
    (folder / ".airflowignore").write_text("/plugins/\n")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "ours.py").write_text(TIMETABLE)
    assert verdict.examine(folder, MEGABYTES)["dags"] == {"x": "dags/ours.py"} and problems(folder) == []
    (folder / "plugins" / "wrong.py").write_text("\n1 / 0\n")
    (folder / "plugins" / "twin.py").write_text(TIMETABLE)
    said = problems(folder)
    assert "plugins/wrong.py:2: ZeroDivisionError: division by zero" in said
    assert any(re.match(r"plugins/(twin|ours).py: Plugin 'ours' already registered", line) for line in said)


def said_offline(source):
    bounds = [f"--megabytes={MEGABYTES}", "--most-mb=5"]
    command = [sys.executable, "-P", "-m", "airstrip.gate", "--offline", str(source), *bounds]
    environment = {**os.environ, "PYTHONPATH": str(Path(verdict.__file__).parents[2])}
    result = subprocess.run(command, text=True, capture_output=True, check=False, env=environment)
    assert result.returncode == 1, result.stdout + result.stderr
    return result.stdout


def test_a_release_that_drops_what_somebody_reads_is_refused_by_name(tmp_path):
    """Airstrip's own pipelines: whoever reads a column says so, and its file is not imported without it."""
    for name in ("dags", "etl"):
        shutil.copytree(Path(name), tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path, column in (("etl/x/contract.py", "like_count"), ("etl/report/contract.py", "country")):
        contract = tmp_path / path
        lines = contract.read_text().splitlines()
        contract.write_text("\n".join(line for line in lines if f'Column("{column}"' not in line))
    # In a process of its own: this one has imported the pipelines as they are.
    said = [line for line in said_offline(tmp_path).splitlines() if "Error" in line]
    assert [line.partition("whose")[0].partition(": ")[2] for line in said] == [
        "etl.contract.ContractError: daily_report reads country of sales, ",
        "etl.contract.ContractError: twitter_summary reads like_count of x_posts, ",
    ]


def test_twenty_broken_trees_are_refused_with_file_and_line(tmp_path, monkeypatch):
    """As `make gate` does it. In one tree where possible, because each start takes seconds."""
    monkeypatch.setenv("AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT", "2")
    assert len(BROKEN) == 20
    said = said_offline(write(tmp_path / "files", [tree for tree in BROKEN.values() if not tree.whole]))
    said += "".join(said_offline(write(tmp_path / name, [tree])) for name, tree in BROKEN.items() if tree.whole)
    missing = [name for name, tree in BROKEN.items() if not re.search(tree.words, said)]
    assert not missing, said


def test_a_file_that_ignores_its_timeout_is_ended_and_named_with_its_line(release, monkeypatch):
    monkeypatch.setattr(process, "GRACE_SECONDS", 4)
    monkeypatch.setenv("AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT", "1")
    block = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])"
    (problem,) = problems(release(deaf=f"import signal\n# airflow DAG\n{block}\nwhile True:\n    pass\n"))
    assert re.match(r"dags/deaf.py:[45]: does not end within 6 s", problem)
