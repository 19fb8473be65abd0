"""What one DAG file holds, as the DAG processor would find it, and what is wrong with it by line."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

from airflow import plugins_manager, settings
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.dag_version_inflation_checker import check_dag_file_stability

from airstrip.release import folder

# What reads a connection by the id that it is given first.
READERS = {"get_connection", "Connection.get"}


@dataclass
class Finding:
    """What one file holds: DAG ids, its problems, and each connection and pool that it names with where."""

    dags: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    connections: dict[str, str] = field(default_factory=dict)
    pools: dict[str, str] = field(default_factory=dict)


def look(release: Path, file: Path) -> Finding:
    """Import one file as the DAG processor would."""
    sys.path.append(str(release))
    if release / "plugins" in file.parents:
        return look_at_plugin(release, file)
    bag = DagBag(dag_folder=str(file), collect_dags=False, bundle_path=release, bundle_name=folder.BUNDLE)
    name = file.relative_to(release)
    try:
        bag.process_file(str(file))
    except SystemExit:
        return Finding(problems=[line(release, file, traceback.format_exc())])
    finding = Finding(problems=[line(release, file, text) for text in bag.import_errors.values()])
    readable = file.suffix == ".py" and not finding.problems
    source = ast.parse(file.read_bytes()) if readable else ast.Module([], [])
    for identifier, number in literals(source):
        finding.connections.setdefault(identifier, f"{name}:{number}")
    if readable and bag.dags:
        finding.problems += [f"{name}:{number}: {what}" for number, what in varying(file)]
    for dag in bag.dags.values():
        try:
            LazyDeserializedDAG.from_dag(dag)
        except Exception as error:
            # Airflow puts a hash of the path before the name of the module.
            what = re.sub(r"unusual_prefix_[0-9a-f]{40}_", "", str(error))
            finding.problems.append(f"{place(release, file, dag.dag_id)}: {dag.dag_id} cannot be stored: {what}")
        finding.dags.append(dag.dag_id)
        for task in dag.tasks:
            finding.pools.setdefault(task.pool, place(release, file, task.pool))
            for identifier in named(task):
                finding.connections.setdefault(identifier, place(release, file, identifier))
    return finding


def look_at_plugin(release: Path, file: Path) -> Finding:
    """Import one file of plugins/ as each service would when it starts."""
    loader = SourceFileLoader(file.stem, str(file))
    module = sys.modules[file.stem] = module_from_spec(spec_from_loader(file.stem, loader))
    try:
        loader.exec_module(module)
    except (Exception, SystemExit):
        return Finding(problems=[line(release, file, traceback.format_exc())])
    errors = plugins_manager.get_import_errors()
    name = str(file.relative_to(release / "plugins"))
    return Finding(problems=[f"plugins/{name}: {what}" for where, what in errors.items() if where.endswith(f"/{name}")])


def use_plugins(release: Path) -> None:
    """Let Airflow find the plugins of the release, and none of the live one."""
    folder = str(release / "plugins")
    sys.path[:] = [path for path in sys.path if path != settings.PLUGINS_FOLDER] + [folder]
    settings.PLUGINS_FOLDER = folder


def varying(file: Path) -> Iterator[tuple[int, str]]:
    """Yield each line whose value differs from one parse to the next, so that each parse would make a version."""
    for warning in check_dag_file_stability(file).warnings.values():
        what = f"{warning.code} differs each time that the file is read, and each time is a new version of the DAG"
        yield warning.line, f"{what}; use a fixed value, or a template such as {{{{ ds }}}}"


def line(release: Path, file: Path, text: str) -> str:
    """Shorten a stack trace to `file:line: what is wrong`."""
    frames = re.findall(rf'File "{re.escape(str(release))}/([^"]+)", line (\d+)', text)
    # A trace's last part begins at the margin, and may span lines.
    what = re.split(r"\n(?=\S)", text.strip().rpartition('\n  File "')[2], maxsplit=1)[-1].splitlines()[0]
    where = ":".join(frames[-1]) if frames else str(file.relative_to(release))
    if not frames:
        # Found after the import, in a whole DAG: the message names the DAG, or what is wrong in it.
        words = re.findall(r"Dag: (\S+)\.|\[(.+?)\]|'(.+?)'", what)
        places = (place(release, file, word) for group in words for word in group if word)
        where = next((found for found in places if found != where), where)
    return f"{where}: {what.replace(f'{release}/', '')}"


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


def named(task: Any) -> Iterator[str]:
    """Yield the connections that a task names: not its operator's defaults."""
    values = getattr(task, "partial_kwargs", None) or vars(task)
    for name, value in values.items():
        if name.endswith("conn_id") and isinstance(value, str) and plain(value) and value != default(task, name):
            yield value


def default(task: Any, parameter: str) -> Any:
    """Return the operator's default for the parameter."""
    operator = getattr(task, "operator_class", type(task))
    for ancestor in operator.__mro__:
        if "__init__" in vars(ancestor) and parameter in inspect.signature(ancestor.__init__).parameters:
            return inspect.signature(ancestor.__init__).parameters[parameter].default
    return None


def plain(identifier: str) -> bool:
    """Return whether it is an id, not a template of one."""
    return bool(identifier) and "{{" not in identifier
