"""The shipped DAGs, parsed by the Airflow that the servers run."""

import ast
from pathlib import Path

import pytest

from airstrip.notices import notify_failure
from etl import storage, twitter_etl, x_api

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
    assert set(dag.task_ids) == {"day_has_settled", "resolve_users", "fetch_posts", "publish"}
    assert dag.get_task("fetch_posts").downstream_task_ids == {"publish"}
    assert dag.get_task("fetch_posts").pool == "x_api"
    assert dag.catchup is False
    assert type(dag.timetable).__name__ == "CronDataIntervalTimetable"


def test_the_summary_follows_the_posts(dags):
    (posts,) = dags["twitter"].get_task("publish").outlets
    assert dags["twitter_summary"].timetable.asset_condition.objects == (posts,)


@pytest.mark.parametrize(
    ("error", "action", "seconds"),
    [
        (x_api.RateLimited(77), "retry", 77),
        (x_api.CreditsDepleted("none"), "fail", None),
        (twitter_etl.BudgetSpent("all"), "fail", None),
        (twitter_etl.QualityError("bad"), "fail", None),
        (storage.StorageRefused("closed"), "fail", None),
        (x_api.Transient("busy"), "default", None),
        (OSError("full"), "default", None),
    ],
)
def test_a_task_comes_back_when_x_says_and_only_where_that_helps(dags, error, action, seconds):
    for task in dags["twitter"].tasks:
        decision = task.retry_policy.evaluate(error, 1, 12)
        assert decision.action.value == action
        assert (decision.retry_delay and decision.retry_delay.total_seconds()) == seconds


def test_every_dag_tells_of_its_failure(dags):
    assert all(dag.on_failure_callback is notify_failure for dag in dags.values())


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
