"""The shipped DAGs, parsed by the Airflow that the servers run."""

import ast
import re
from pathlib import Path

import pytest
from airflow.providers.standard.exceptions import HITLTimeoutError

from airstrip.notices import notify_failure
from etl import sales, storage, twitter_etl, x_api

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


def test_what_the_trigger_form_does_not_ask_cannot_be_said(dags, monkeypatch):
    """Airflow takes any key with a run: the bucket, for one, is the administrator's."""
    task = dags["twitter"].get_task("publish").python_callable.__globals__
    monkeypatch.setenv("AIRFLOW_VAR_X_BUCKET", "ours")
    monkeypatch.setitem(task, "get_current_context", lambda: {"params": {"bucket": "theirs", "usernames": ["nasa"]}})
    assert task["setting"]("bucket") == "ours" and task["setting"]("usernames") == ["nasa"]


def test_an_approval_that_is_always_wanted_cannot_be_left_out(dags, monkeypatch):
    choose = dags["daily_report"].get_task("choose").python_callable
    monkeypatch.setattr("etl.daily_report.was_mailed", lambda *_: False)
    for name in ("bucket", "day"):
        monkeypatch.setitem(choose.__globals__, name, lambda: None)
    for always, asked, chosen in (
        ("true", False, "approve"),
        ("false", True, "approve"),
        ("false", False, "send_mail"),
    ):
        monkeypatch.setenv("AIRFLOW_VAR_REPORT_APPROVAL", always)
        params = {"mail": True, "approval": asked}
        monkeypatch.setitem(choose.__globals__, "get_current_context", lambda params=params: {"params": params})
        assert choose("sha256", "a@x.example") == chosen


def test_every_dag_tells_of_its_failure(dags):
    assert all(dag.on_failure_callback is notify_failure for dag in dags.values())


def test_every_dag_is_documented_owned_and_tagged(dags):
    for dag in dags.values():
        assert dag.doc_md and dag.tags and dag.owner != "airflow"
        assert all(task.retries > 0 for task in dag.tasks)


@pytest.fixture
def report(monkeypatch):
    """Parse the report with variables that shape it."""
    from airflow.dag_processing.dagbag import DagBag

    def parse(**variables: str):
        for name, value in variables.items():
            monkeypatch.setenv(f"AIRFLOW_VAR_REPORT_{name}", value)
        return DagBag(dag_folder=str(ROOT / "dags" / "daily_report_dag.py"))

    return parse


def test_the_report_extracts_combines_loads_checks_and_mails(dags):
    dag = dags["daily_report"]
    before = {task.task_id: task.upstream_task_ids for task in dag.tasks}
    assert before["combine"] == {"extract_orders", "fetch_rates"}
    assert before["load.create"] == {"combine"}
    assert before["load.publish"] == {"load.check_columns", "load.check_rows"}
    assert before["read_figures"] == {"load.publish"}
    assert before["render"] == {"combine", "read_figures"}
    assert {"approve", "choose"} <= before["send_mail"]
    # Who clears the publishing, or what comes after, must not publish a table that is empty or gone.
    for task in ("load.publish", "load.check_rows", "load.stage"):
        again = set(dag.partial_subset(task, include_downstream=True).task_ids)
        assert {"load.create", "load.stage", "load.publish", "load.drop", "render"} <= again
    assert dag.get_task("load.drop").is_teardown and dag.get_task("receipts_have_come").deferrable
    # The defaults lead to the database on the host; nothing needs a connection that only some have.
    assert type(dag.get_task("load.stage")).__name__ == "_PythonDecoratedOperator"
    assert dag.get_task("extract_orders").sql_conn_id.startswith("{{")


def test_redshift_copies_from_s3_with_its_role(report):
    role = "arn:aws:iam::123456789012:role/redshift"
    dag = report(WAREHOUSE="redshift", REDSHIFT_ROLE=role, SCHEMA="reports").dags["daily_report"]
    emptied, copied = dag.get_task("load.stage").sql
    assert emptied == "delete from reports.{{ staging(dag_run) }}"
    assert "from 's3://{{ var.value.report_bucket }}/curated/report/sales/dt=" in copied and role in copied
    assert dag.get_task("load.publish").sql[1].startswith("insert into reports.sales ")
    assert dag.get_task("load.stage").conn_id == "warehouse"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WAREHOUSE": "oracle"}, "report_warehouse is 'oracle': set .* to one of postgres, redshift, bigquery"),
        ({"WAREHOUSE": "bigquery"}, r"packages are missing: set airflow_extras: \[bigquery\]"),
        ({"SCHEMA": "a b"}, "report_schema is 'a b'"),
    ],
)
def test_a_setting_that_cannot_be_is_said_before_it_goes_live(report, variables, message):
    (error,) = report(**variables).import_errors.values()
    assert re.search(message, error)


def test_a_source_that_must_be_delivered_anew_is_not_tried_again(dags):
    policy = dags["daily_report"].get_task("combine").retry_policy
    assert policy.evaluate(sales.SourceError("no CSV"), 1, 5).action.value == "fail"
    assert policy.evaluate(HITLTimeoutError("a day has gone"), 1, 5).action.value == "fail"
    assert policy.evaluate(storage.StorageRefused("closed"), 1, 5).action.value == "fail"
    assert policy.evaluate(OSError("full"), 1, 5).action.value == "default"


@pytest.mark.parametrize("path", DAGS, ids=lambda path: path.name)
def test_dag_files_are_thin(path):
    """What a DAG file imports at its top is imported at every parse and by every task."""
    names = [module for node in ast.parse(path.read_text()).body for module in modules(node)]
    assert not {name.partition(".")[0] for name in names} & {"pandas", "boto3", "s3fs", "tweepy", "requests", "etl"}


def test_etl_knows_no_airflow():
    for path in (ROOT / "etl").rglob("*.py"):
        named = [module for node in ast.walk(ast.parse(path.read_text())) for module in modules(node)]
        assert "airflow" not in {name.partition(".")[0] for name in named}
