"""Examine a release with the packages, variables and connections of this host, before it goes live.

`python -m airstrip.gate FOLDER` prints a JSON object: `dags` (DAG id to file) and `problems` (a line each). With
_AIRFLOW_PROCESS_CONTEXT=server a DAG file may ask the database for variables and connections, as it may in the DAG
processor; AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT says how many seconds it may take.
"""

from __future__ import annotations

import ast
import inspect
import json
import multiprocessing
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil
from airflow.configuration import conf, get_custom_secret_backend
from airflow.dag_processing.dagbag import DagBag
from airflow.models import Connection, Pool
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.file import list_py_file_paths
from airflow.utils.session import create_session
from sqlalchemy import select

from airstrip import live
from airstrip.release import folder

# What a process that imports a DAG file may take, in MB.
FILE_MB = 200
# What reads a connection by the id that it is given first.
READERS = {"get_connection", "Connection.get"}


@dataclass
class Finding:
    """What one file holds: DAG ids, its problems, and each connection and pool that it names with where."""

    dags: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    connections: dict[str, str] = field(default_factory=dict)
    pools: dict[str, str] = field(default_factory=dict)


def examine(release: Path) -> dict[str, Any]:
    """Import every DAG file of a release, each in a process of its own, and return `dags` and `problems`."""
    for option in ("secrets_backend", "secrets_backend_kwargs"):
        # What the DAG processor asks for a file's variables is the backend of the tasks.
        os.environ[f"AIRFLOW__SECRETS__{option.removeprefix('secrets_').upper()}"] = conf.get("workers", option) or ""
    files = sorted(list_py_file_paths(release))
    findings = dict(in_processes(release, files))
    problems = [problem for file in files for problem in findings[file].problems]
    owners = defaultdict(list)
    for file in files:
        for dag in findings[file].dags:
            owners[dag].append(Path(file))
    for dag, several in owners.items():
        if len(several) > 1:
            places = " and ".join(place(release, file, dag) for file in several)
            problems.append(f"{places}: both define the DAG {dag}; give one another name")
    if not problems:
        problems = absent(findings) + live.stranded(list(owners))
    dags = {dag: str(several[0].relative_to(release)) for dag, several in owners.items()}
    return {"dags": dags, "problems": problems}


def in_processes(release: Path, files: list[str]) -> Iterator[tuple[str, Finding]]:
    """Yield each file with its finding, as many at once as there are processors, and memory beside what runs here.

    As in the DAG processor a file cannot lean on what another has imported, and may end its process.
    """
    fork = multiprocessing.get_context("fork")
    waiting, running = list(reversed(files)), {}
    limit = 30 + 2 * conf.getfloat("core", "dagbag_import_timeout")
    while waiting or running:
        while waiting and len(running) < at_once(len(running)):
            file = waiting.pop()
            answer, question = fork.Pipe(duplex=False)
            process = fork.Process(target=report, args=(question, release, file))
            process.start()
            question.close()
            running[answer] = (file, process, time.monotonic() + limit)
        for _, process, deadline in running.values():
            if time.monotonic() > deadline:
                # Deaf to Airflow's own time limit, as code in C can be.
                process.kill()
        for answer in wait(list(running), 1):
            file, process, _ = running.pop(answer)
            try:
                yield file, answer.recv()
            except EOFError:
                process.join()
                name, code = Path(file).relative_to(release), process.exitcode
                yield file, Finding(problems=[f"{name}: ends the Python that imports it (exit code {code})"])


def at_once(running: int) -> int:
    """How many processes may import now, while so many do."""
    room = psutil.virtual_memory().available // 2**20 // FILE_MB
    return min(os.cpu_count() or 1, max(1, running + room))


def report(question: Pipe, release: Path, file: str) -> None:
    """Send what a file holds, and end without what the file may have registered for the end."""
    # What a file prints would mix with the answer.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    question.send(look(release, Path(file)))
    question.close()
    os._exit(0)


def look(release: Path, file: Path) -> Finding:
    """Import one file as the DAG processor would."""
    sys.path.append(str(release))
    bag = DagBag(dag_folder=str(file), collect_dags=False, bundle_path=release, bundle_name=folder.BUNDLE)
    bag.process_file(str(file))
    finding = Finding(problems=[line(release, file, text) for text in bag.import_errors.values()])
    readable = file.suffix == ".py" and not finding.problems
    source = ast.parse(file.read_bytes()) if readable else ast.Module([], [])
    for identifier, number in literals(source):
        finding.connections.setdefault(identifier, f"{file.relative_to(release)}:{number}")
    for dag in bag.dags.values():
        try:
            LazyDeserializedDAG.from_dag(dag)
        except Exception as error:
            finding.problems.append(f"{place(release, file, dag.dag_id)}: {dag.dag_id} cannot be stored: {error}")
        finding.dags.append(dag.dag_id)
        for task in dag.tasks:
            finding.pools.setdefault(task.pool, place(release, file, task.pool))
            for identifier in given(task):
                finding.connections.setdefault(identifier, place(release, file, identifier))
    return finding


def line(release: Path, file: Path, text: str) -> str:
    """Shorten a stack trace to `file:line: what is wrong`."""
    frames = re.findall(rf'File "{re.escape(str(release))}/([^"]+)", line (\d+)', text)
    name, number = frames[-1] if frames else (str(file.relative_to(release)), 0)
    cycle = re.search(r"Cycle detected in Dag: (\S+)\.", text)
    if cycle:
        return f"{place(release, file, cycle[1])}: {text.strip()}"
    # What a trace ends with begins at the margin, and may go on for lines.
    what = re.split(r"\n(?=\S)", text.strip().rpartition('\n  File "')[2], maxsplit=1)[-1].splitlines()[0]
    return f"{name}:{number}: {what}" if number else f"{name}: {what}"


def place(release: Path, file: Path, word: str) -> str:
    """Return `file:line` of the first line that has the word."""
    pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")
    for number, text in enumerate(file.read_text(errors="replace").splitlines(), start=1):
        if pattern.search(text):
            return f"{file.relative_to(release)}:{number}"
    return str(file.relative_to(release))


def literals(source: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each connection that the source names in plain text, with its line."""
    for node in ast.walk(source):
        if not isinstance(node, ast.Call):
            continue
        words = [word.value for word in node.keywords if (word.arg or "").endswith("conn_id")]
        if ast.unparse(node.func).endswith(tuple(READERS)) and node.args:
            words.append(node.args[0])
        for word in words:
            if isinstance(word, ast.Constant) and isinstance(word.value, str) and plain(word.value):
                yield word.value, word.lineno


def given(task: Any) -> Iterator[str]:
    """Yield the connections that a task was given: not those that its operator takes of itself."""
    values = getattr(task, "partial_kwargs", None) or vars(task)
    for name, value in values.items():
        if name.endswith("conn_id") and isinstance(value, str) and plain(value) and value != default(task, name):
            yield value


def default(task: Any, parameter: str) -> Any:
    """Return what the operator takes where the parameter is not given."""
    operator = getattr(task, "operator_class", type(task))
    for ancestor in operator.__mro__:
        if "__init__" in vars(ancestor) and parameter in inspect.signature(ancestor.__init__).parameters:
            return inspect.signature(ancestor.__init__).parameters[parameter].default
    return None


def plain(identifier: str) -> bool:
    """Return whether it is an id, not a template of one."""
    return bool(identifier) and "{{" not in identifier


def absent(findings: dict[str, Finding]) -> list[str]:
    """Return a line for each connection and pool that the files name and this host has not."""
    with create_session() as session:
        connections = set(session.scalars(select(Connection.conn_id)))
        pools = set(session.scalars(select(Pool.pool)))
    backend = get_custom_secret_backend(worker_mode=True)
    lines = []
    for finding in findings.values():
        for identifier, where in finding.connections.items():
            known = identifier in connections or f"AIRFLOW_CONN_{identifier.upper()}" in os.environ
            if not known and not (backend and backend.get_connection(identifier)):
                lines.append(
                    f"{where}: there is no connection {identifier}; set airflow_connections.{identifier} and run "
                    f"site.yml --tags airflow, or: sudo airflow connections add {identifier}"
                )
        for pool, where in finding.pools.items():
            if pool not in pools:
                lines.append(f"{where}: there is no pool {pool}; make it: sudo airflow pools set {pool} SLOTS NOTE")
    return lines


if __name__ == "__main__":
    answer = examine(Path(sys.argv[1]).resolve())
    print(json.dumps(answer))
