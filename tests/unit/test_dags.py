"""The shipped DAGs, parsed by the Airflow that the servers run."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DAGS = sorted((ROOT / "dags").glob("*.py"))


def modules(node: ast.AST) -> list[str]:
    """The modules that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


@pytest.fixture(scope="module")
def dags():
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(ROOT / "dags"))
    assert not bag.import_errors
    return bag.dags


def test_twitter_runs_daily_over_the_day_before(dags):
    dag = dags["twitter"]
    assert set(dag.task_ids) == {"resolve_users", "fetch_posts", "store_csv"}
    assert dag.get_task("fetch_posts").downstream_task_ids == {"store_csv"}
    assert dag.catchup is False and dag.max_active_runs == 1
    assert type(dag.timetable).__name__ == "CronDataIntervalTimetable"


def test_every_dag_is_documented_owned_and_tagged(dags):
    for dag in dags.values():
        assert dag.doc_md and dag.tags and dag.owner != "airflow"
        assert all(task.retries > 0 for task in dag.tasks)


@pytest.mark.parametrize("path", DAGS, ids=lambda path: path.name)
def test_dag_files_are_thin(path):
    """What a DAG file imports at its top is imported at every parse and by every task."""
    names = [module for node in ast.parse(path.read_text()).body for module in modules(node)]
    assert not {name.partition(".")[0] for name in names} & {"pandas", "boto3", "s3fs", "tweepy", "requests", "etl"}


def test_etl_knows_no_airflow():
    for path in (ROOT / "etl").rglob("*.py"):
        named = [module for node in ast.walk(ast.parse(path.read_text())) for module in modules(node)]
        assert "airflow" not in {name.partition(".")[0] for name in named}
