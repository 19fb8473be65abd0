"""The shipped DAGs, parsed by the Airflow that the servers run."""

import ast
import contextlib
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pendulum
import pytest
from airflow.providers.standard.exceptions import HITLTimeoutError
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException
from airflow.timetables.interval import CronDataIntervalTimetable

from airstrip import report as report_of_a_run
from airstrip import retries, x
from airstrip.notices import notify_failure
from etl import storage
from etl.report import notes
from etl.report.contract import SALES
from etl.report.errors import SourceError
from etl.x import errors
from etl.x.contract import POSTS

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


@pytest.mark.parametrize(("contract", "dag"), [(POSTS, "twitter"), (SALES, "daily_report")])
def test_the_page_of_a_dag_shows_its_contract(dags, contract, dag):
    assert all(f"| `{column.name}` | {column.type} |" in dags[dag].doc_md for column in contract.columns)


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
    ("error", "action"),
    [
        (errors.CreditsDepleted("none"), "fail"),
        (errors.BudgetSpent("all"), "fail"),
        (errors.QualityError("bad"), "fail"),
        (storage.StorageRefused("closed"), "fail"),
        (errors.Transient("busy"), "default"),
        (OSError("full"), "default"),
    ],
)
def test_a_task_is_tried_again_only_where_that_helps(dags, error, action):
    for task in dags["twitter"].tasks:
        assert task.retry_policy.evaluate(error, 1, 12).action.value == action


def test_a_task_that_knows_when_comes_back_then_and_loses_no_try(monkeypatch):
    since = None
    ti = SimpleNamespace(get_first_reschedule_date=lambda context: since)
    monkeypatch.setattr(retries, "get_current_context", lambda: {"ti": ti})
    with pytest.raises(AirflowRescheduleException) as said, retries.coming_back():
        raise errors.RateLimited(77)
    assert 70 < (said.value.reschedule_date - datetime.now(UTC)).total_seconds() <= 77
    with pytest.raises(errors.Transient), retries.coming_back():
        raise errors.Transient("busy")
    since = datetime.now(UTC) - retries.LONGEST_WAIT
    with pytest.raises(errors.RateLimited), retries.coming_back():
        raise errors.RateLimited(77)


def test_settings_not_in_the_trigger_form_are_ignored(dags, monkeypatch):
    """Airflow takes any key with a run: the bucket, for one, is the administrator's."""
    monkeypatch.setenv("AIRFLOW_VAR_X_BUCKET", "ours")
    context = {"params": {"bucket": "theirs", "usernames": ["nasa"]}, "dag": dags["twitter"]}
    monkeypatch.setattr(x, "get_current_context", lambda: context)
    assert x.setting("bucket") == "ours" and x.words("usernames") == ["nasa"]


def test_a_mandatory_approval_cannot_be_skipped(dags, monkeypatch):
    choose = dags["daily_report"].get_task("choose").python_callable
    monkeypatch.setattr("etl.report.notes.was_mailed", lambda *_: False)
    monkeypatch.setattr(report_of_a_run, "held", lambda: (None, None))
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
    # Nobody waits for them.
    assert before["restate"] == {"restatements"} and dag.get_task("restate").downstream_task_ids == set()
    # Clearing the publishing, or a later task, must not publish a table that is empty or gone.
    for task in ("load.publish", "load.check_rows", "load.stage"):
        again = set(dag.partial_subset(task, include_downstream=True).task_ids)
        assert {"load.create", "load.stage", "load.publish", "load.drop", "render"} <= again
    assert dag.get_task("load.drop").is_teardown and dag.get_task("receipts_have_come").deferrable
    # The defaults lead to the database on the host; nothing needs a connection that only some have.
    assert type(dag.get_task("load.stage")).__name__ == "_PythonDecoratedOperator"
    assert dag.get_task("extract_orders").op_args[0].startswith("{{")
    # It claims the day: two at once would both find it free.
    assert dag.get_task("check_settings").max_active_tis_per_dag == 1


@pytest.mark.parametrize(("state", "waits"), [("running", True), ("queued", True), ("success", False), (None, False)])
def test_of_two_runs_about_one_day_the_second_waits(monkeypatch, tmp_path, state, waits):
    states = {"first": state}

    def run(name):
        ti = SimpleNamespace(get_dagrun_state=lambda dag, other: states[other])
        context = {"dag_run": SimpleNamespace(run_id=name, dag_id="daily_report"), "ti": ti}
        monkeypatch.setattr(report_of_a_run, "get_current_context", lambda: context)
        report_of_a_run.claim()

    ti = SimpleNamespace(get_first_reschedule_date=lambda context: None)
    monkeypatch.setattr(retries, "get_current_context", lambda: {"ti": ti})
    monkeypatch.setattr(report_of_a_run, "bucket", lambda: storage.Storage(str(tmp_path)))
    monkeypatch.setattr(report_of_a_run, "day", lambda: date(2026, 11, 3))
    run("first")
    run("first")
    with pytest.raises(AirflowRescheduleException) if waits else contextlib.nullcontext():
        run("second")
    assert notes.owner(storage.Storage(str(tmp_path)), date(2026, 11, 3)) == ("first" if waits else "second")


def test_a_day_that_an_order_has_left_is_restated_by_its_own_run(monkeypatch, dags):
    def runs(name="scheduled__1", report=3):
        context = {
            "dag_run": SimpleNamespace(run_id=name),
            "params": {"mail": True, "approval": True, "recipients": []},
        }
        monkeypatch.setattr(report_of_a_run, "get_current_context", lambda: context)
        days = ["2026-02-28", "2026-11-01"]
        return report_of_a_run.restatements([{"day": day, "report": report, "recipients": ["a@b.c"]} for day in days])

    timetable = CronDataIntervalTimetable(dags["daily_report"].timetable.expression, timezone="UTC")
    for run in runs():
        interval = timetable.infer_manual_data_interval(run_after=pendulum.parse(run["run_after"]))
        assert run["trigger_run_id"] == f"restated__{interval.start:%Y-%m-%d}__3"
        assert interval.end - interval.start == timedelta(days=1) and interval.end == pendulum.parse(run["run_after"])
        assert run["conf"] == {"mail": True, "approval": True, "recipients": ["a@b.c"]}
    # All that find the day to be restated start the same run, and a restating run starts no other.
    assert runs("manual__2") == runs() and runs("restated__2026-11-02__1") == []
    assert len({run["logical_date"] for run in [*runs(), *runs(report=4)]}) == 4


def test_an_ignored_setting_is_reported(monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_REPORT_BUCKET", "b")
    claimed = []
    monkeypatch.setattr(report_of_a_run, "claim", lambda: claimed.append(True))
    report_of_a_run.check_settings("a@x.example")
    assert claimed == [True]
    given = {"report_bucket": "b", "report_schema": "elsewhere"}
    monkeypatch.setattr(report_of_a_run.Variable, "get", lambda name, default: given.get(name, default))
    with pytest.raises(AirflowFailException, match="report_schema cannot be set in the user interface"):
        report_of_a_run.check_settings("a@x.example")


def test_redshift_copies_from_s3_with_its_role(report):
    role = "arn:aws:iam::123456789012:role/redshift"
    dag = report(WAREHOUSE="redshift", REDSHIFT_ROLE=role, SCHEMA="reports").dags["daily_report"]
    emptied, copied = dag.get_task("load.stage").sql
    assert emptied == "delete from reports.{{ staging(dag_run) }}"
    assert "from 's3://{{ var.value.report_bucket }}/curated/report/sales/dt=" in copied and role in copied
    assert dag.get_task("load.publish").sql[3].startswith("insert into reports.sales ")
    assert dag.get_task("load.stage").conn_id == "warehouse"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WAREHOUSE": "oracle"}, "report_warehouse is 'oracle': set .* to one of postgres, redshift, bigquery"),
        ({"WAREHOUSE": "bigquery"}, r"packages are missing: set airflow_extras: \[bigquery\]"),
        ({"SCHEMA": "a b"}, "report_schema is 'a b'"),
    ],
)
def test_an_invalid_setting_is_reported_before_it_goes_live(report, variables, message):
    (error,) = report(**variables).import_errors.values()
    assert re.search(message, error)


def test_a_source_that_must_be_delivered_anew_is_not_tried_again(dags):
    policy = dags["daily_report"].get_task("combine").retry_policy
    assert policy.evaluate(SourceError("no CSV"), 1, 5).action.value == "fail"
    assert policy.evaluate(HITLTimeoutError("a day has gone"), 1, 5).action.value == "fail"
    assert policy.evaluate(storage.StorageRefused("closed"), 1, 5).action.value == "fail"
    assert policy.evaluate(OSError("full"), 1, 5).action.value == "default"


@pytest.mark.parametrize("path", DAGS, ids=lambda path: path.name)
def test_dag_files_are_thin(path):
    """What a DAG file imports at its top is imported at every parse and by every task. A contract costs nothing."""
    names = [module for node in ast.parse(path.read_text()).body for module in modules(node)]
    costly = {name.partition(".")[0] for name in names if not name.endswith(".contract")}
    assert not costly & {"pandas", "boto3", "s3fs", "tweepy", "requests", "etl"}


def test_etl_knows_no_airflow():
    for path in (ROOT / "etl").rglob("*.py"):
        named = [module for node in ast.walk(ast.parse(path.read_text())) for module in modules(node)]
        assert "airflow" not in {name.partition(".")[0] for name in named}
