"""Twenty trees that must not go live, and what is said of each."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DAG = """
from airflow.sdk import DAG
with DAG({name!r}, schedule=None):
    pass
"""
DEFINED = "from airflow.sdk import DAG\nfrom airflow.providers.standard.operators.empty import EmptyOperator as E\n"


@dataclass(frozen=True)
class Tree:
    """Files by path. Nothing of a `whole` tree is examined, so it must be alone."""

    files: dict[str, str]
    words: str
    whole: bool = False


def one(name: str, text: str, words: str) -> Tree:
    """A tree of one DAG file."""
    return Tree({f"dags/{name}.py": text}, f"dags/{name}.py{words}")


BROKEN = {
    "syntax": one("syntax", "# airflow DAG\ndef f(:\n", ":2: SyntaxError"),
    "package": one("package", "# airflow DAG\nimport no_such_package\n", ":2: ModuleNotFoundError: No module named"),
    "undefined": one("undefined", f"{DEFINED}DAG(nothing)\n", ":3: NameError: name 'nothing'"),
    "slow": one("slow", "# airflow DAG\nimport time\ntime.sleep(30)\n", ":3: .*AirflowTaskTimeout: .* after 2"),
    "hungry": one(
        "hungry",
        "# airflow DAG\nimport time\nx = bytearray(7 * 10**8)\ntime.sleep(30)\n",
        r":[34]: takes more than \d+ MB to import",
    ),
    "end": one("end", "# airflow DAG\nimport os\n\nos._exit(3)\n", r":4: ends the Python .* \(exit code 3\)"),
    "leave": one("leave", "# airflow DAG\nimport sys\nsys.exit(3)\n", ":3: SystemExit: 3"),
    "crash": one("crash", "# airflow DAG\nimport os\nos.abort()\n", r":3: ends the Python .* \(exit code -6\)"),
    "cron": one("cron", f"{DEFINED}cron = DAG('cron', schedule='61 * * * *')\n", r":3: .*61"),
    "cycle": one(
        "cycle",
        f"{DEFINED}with DAG('cycle', schedule=None):\n    a, b = E(task_id='a'), E(task_id='b')\n    a >> b >> a\n",
        ":3: AirflowDagCycleException",
    ),
    "duplicate": one(
        "duplicate",
        f"{DEFINED}with DAG('duplicate'):\n    E(task_id='a')\n    E(task_id='a')\n",
        ":5: .*DuplicateTaskIdFound",
    ),
    "argument": one("argument", f"{DEFINED}with DAG('argument'):\n    E(task_id='a', colour='red')\n", ":4: TypeError"),
    "varying": one(
        "varying",
        f"from datetime import datetime\n{DEFINED}with DAG('varying', start_date=datetime.now()):\n    E(task_id='a')",
        r":4: .*datetime.now\(\).* differs each time",
    ),
    "unknown_timetable": one(
        "unknown_timetable",
        f"from airflow.timetables.simple import NullTimetable\n{DEFINED}\n\nclass Ours(NullTimetable):\n    pass\n\n\n"
        "ours = DAG('unknown_timetable', schedule=Ours())\n",
        ":10: .*unknown_timetable",
    ),
    "library": Tree(
        {"dags/library.py": "# airflow DAG\nimport etl.wrong\n", "etl/wrong.py": "\n\n1 / 0\n"},
        "etl/wrong.py:3: ZeroDivisionError",
    ),
    "twin": Tree(
        {f"dags/twin_{number}.py": DAG.format(name="twin") for number in (1, 2)},
        "dags/twin_1.py:3 and dags/twin_2.py:3: both define the DAG twin",
    ),
    "way_out": Tree({"dags/way_out": "-> ../../elsewhere"}, "dags/way_out -> ../../elsewhere leads out of", True),
    "pipe": Tree({"dags/pipe": "|"}, "dags/pipe is neither a file nor a symlink", True),
    "large": Tree({"etl/large.csv": "x" * 6 * 2**20}, "hold 6 MB, a release 5", True),
    "no_dags": Tree({"etl/lib.py": ""}, "There is no file in dags/", True),
}


def write(folder: Path, trees: Iterable[Tree]) -> Path:
    """Write trees into one folder, and return it."""
    for tree in trees:
        for name, text in tree.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text == "|":
                os.mkfifo(path)
            elif text.startswith("-> "):
                path.symlink_to(text.removeprefix("-> "))
            else:
                path.write_text(text)
    return folder
