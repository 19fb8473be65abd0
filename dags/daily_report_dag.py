"""### The business report of a UTC day

Takes the orders of a database, the exchange rates of an API and the receipts that the shops deliver to S3, cleans and
combines them, replaces the day in the warehouse, and mails what the warehouse then says to `report_recipients`.

**Again?** Clear or run a day as often as you like: the day in the warehouse becomes what its sources say now. A mail
goes out when the report differs from the one that was mailed last.

**A number failed its check?** The mail says why. Refused rows are stored with their reasons below
`s3://<report_bucket>/quarantine/report/sales/dt=<day>/`; correct the source and run the day again.

**Waiting for the shops?** Their file is `s3://<report_bucket>/incoming/report/receipts/dt=<day>/receipts.csv`.

**To see it before others do**, tick *approval* (or set `report_approval`): the run then waits under *Required Actions*.

Whoever may trigger a run may mail fewer people or ask for an approval. Other people are the administrator's:
`report_recipients`, or their domain in `report_recipient_domains`.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from contextlib import closing
from dataclasses import asdict
from datetime import date, timedelta
from functools import partial
from typing import Any

import pendulum
from airflow.providers.amazon.aws.sensors.s3 import S3KeySensor
from airflow.providers.amazon.aws.transfers.sql_to_s3 import SqlToS3Operator
from airflow.providers.common.sql.operators.sql import (
    SQLColumnCheckOperator,
    SQLExecuteQueryOperator,
    SQLTableCheckOperator,
)
from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.standard.exceptions import HITLTimeoutError
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import (
    Connection,
    CronDataIntervalTimetable,
    Param,
    RetryDecision,
    RetryPolicy,
    TaskGroup,
    Variable,
    dag,
    get_current_context,
    task,
)
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException

from airstrip.mail import ReportEmailOperator
from airstrip.notices import notify_failure

WAREHOUSE = "warehouse"
# Which connections they are is a setting: a host on which nobody wants the report need not have them.
ORDERS = "{{ var.value.get('report_orders_connection', 'orders') }}"
RATES = "{{ var.value.get('report_rates_connection', 'exchange_rates') }}"
DAY = "{{ day(dag_run) }}"
STAGING = "{{ staging(dag_run) }}"
BUCKET = "{{ var.value.report_bucket }}"
# The database's own text of each value: what is wrong with it is found later, row by row. Of an order with several
# rows the newest stands, even where it is the one that is refused. Money that is a number has two decimals.
ORDERS_QUERY = f"""
select order_id::text, country::text, to_char(ordered_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS') as ordered_at,
  currency::text, status::text, case when pg_typeof(amount)::text in ('text', 'character varying', 'character', 'money')
  then amount::text else round(amount::text::numeric, 2)::text end as amount
from (
  select *, row_number() over (partition by order_id order by updated_at desc nulls last, status, amount::text) as place
  from orders
  where ordered_at >= timestamptz '{DAY} 00:00+00' and ordered_at < timestamptz '{DAY} 00:00+00' + interval '1 day'
) as versions
where place = 1 or order_id is null
order by order_id, place
"""


class SourceRetryPolicy(RetryPolicy):
    """Fail at once where only another file, another setting or a person helps."""

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        from etl import sales, storage

        if isinstance(exception, (sales.SourceError, storage.StorageRefused, HITLTimeoutError)):
            return RetryDecision.fail(str(exception))
        return RetryDecision.default()


def environment(name: str, default: str = "") -> str:
    """Return a variable that shapes the DAG; parser and tasks have the same environment, and nobody else is asked."""
    return os.environ.get(f"AIRFLOW_VAR_REPORT_{name}", default)


def day_of(run: Any) -> str:
    """Return the run's day; one without an interval is about the day before it."""
    return (run.data_interval_start or run.run_after - timedelta(days=1)).strftime("%Y-%m-%d")


def staging_of(run: Any) -> str:
    """Return the table that holds a run's rows until they are taken over, so that two runs never share one."""
    return f"staging_{hashlib.sha256(run.run_id.encode()).hexdigest()[:12]}"


def day() -> date:
    """Return the day of the run that goes on."""
    return date.fromisoformat(day_of(get_current_context()["dag_run"]))


def bucket() -> Any:
    """Return the storage of the variable report_bucket."""
    from etl import storage

    return storage.Storage(f"s3://{Variable.get('report_bucket')}")


def next_page(response: Any) -> dict[str, str] | None:
    """Return where HttpOperator finds the next page of rates."""
    from etl import sales

    following = sales.next_page(response.text)
    return {"endpoint": following} if following else None


def refuse_outdated(context: Any) -> None:
    """Send no mail of a day about which another run has made a newer report meanwhile."""
    from etl import daily_report

    sha256 = context["ti"].xcom_pull(task_ids="render", key="sha256")
    if not daily_report.is_newest(bucket(), date.fromisoformat(day_of(context["dag_run"])), sha256):
        raise AirflowFailException("another run made a newer report of this day: clear the task `render` to mail that")


def recipients_of(asked: list[str], usual: str, domains: str) -> str:
    """Return who is mailed. Each task that needs it asks anew, for whoever may trigger may also skip a task."""
    from etl.report_recipients import recipients

    try:
        return recipients(asked, usual, domains)
    except PermissionError as error:
        raise AirflowFailException(str(error)) from None


def read_rates(responses: list[Any], dag_run: Any) -> dict[str, str]:
    """Return the rates of all pages."""
    from etl import sales

    return sales.rates([response.text for response in responses], date.fromisoformat(day_of(dag_run)))


@dag(
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    start_date=pendulum.datetime(2020, 1, 1, tz="UTC"),
    catchup=False,
    # Two runs about one day would mail it twice. The runs of a backfill, each about a day of its own, count apart.
    max_active_runs=1,
    default_args={
        "owner": "data",
        "retries": 5,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=15),
        "execution_timeout": timedelta(hours=1),
    },
    on_failure_callback=notify_failure,
    tags=["report", "s3"],
    user_defined_macros={"day": day_of, "staging": staging_of, "recipients": recipients_of},
    params={
        "approval": Param(
            False, type="boolean", description="Wait for an approval before the mail, as always with report_approval."
        ),
        "mail": Param(True, type="boolean", description="Mail the report; otherwise it is only stored on S3."),
        "recipients": Param(
            [],
            type="array",
            items={"type": "string", "format": "idn-email"},
            description="Some of report_recipients, or of report_recipient_domains, one a line.",
        ),
    },
    doc_md=__doc__,
)
def daily_report() -> None:
    """Extract from three sources, combine, load, check, report, mail."""
    # It imports nothing that costs the parser time.
    from etl import report_layout

    @task
    def check_settings(recipients: str, *connections: str) -> None:
        given = {"report_bucket": Variable.get("report_bucket", default=""), "report_recipients": recipients}
        missing = [f"airflow_variables.{name}" for name, value in given.items() if not value]
        for identifier in connections:
            try:
                Connection.get(identifier)
            except AirflowNotFoundException:
                missing.append(f"airflow_connections.{identifier}")
        if missing:
            raise AirflowFailException(f"set {', '.join(missing)} and run playbooks/site.yml --tags airflow")

    arrived = S3KeySensor(
        task_id="receipts_have_come",
        bucket_name=BUCKET,
        bucket_key=report_layout.receipts(DAY),
        # A role that may list a prefix is told by AWS what is there, but refused where it asks for what is not.
        wildcard_match=True,
        aws_conn_id=None,
        deferrable=True,
        poke_interval=60,
        timeout=timedelta(hours=12).total_seconds(),
        retries=1,
        doc_md="The shops deliver a day's receipts on the morning after it; the orders are read then, too.",
    )
    extract_orders = SqlToS3Operator(
        task_id="extract_orders",
        sql_conn_id=ORDERS,
        query=ORDERS_QUERY,
        s3_bucket=BUCKET,
        s3_key=report_layout.orders(DAY),
        replace=True,
        aws_conn_id=None,
        df_kwargs={"index": False, "lineterminator": "\n"},
    )
    fetch_rates = HttpOperator(
        task_id="fetch_rates",
        http_conn_id=RATES,
        method="GET",
        endpoint=f"{{{{ var.value.get('report_rates_endpoint', 'rates/') }}}}{DAY}",
        extra_options={"timeout": 30},
        pagination_function=next_page,
        response_filter=read_rates,
    )

    @task(retry_policy=SourceRetryPolicy())
    def combine(rates: dict[str, str]) -> dict[str, Any]:
        from etl import sales

        counts = sales.combine(bucket(), day(), rates)
        return {
            "accepted": sum(count.accepted for count in counts.values()),
            "counts": {channel: asdict(count) for channel, count in counts.items()},
        }

    @task(multiple_outputs=True)
    def render(combined: dict[str, Any], rows: list[Any]) -> dict[str, Any]:
        from etl import daily_report, sales

        counts = {channel: sales.Count(**count) for channel, count in combined["counts"].items()}
        tolerated = float(Variable.get("report_most_refused_percent", default="1"))
        return daily_report.render(bucket(), day(), rows, counts, tolerated)

    @task.branch
    def choose(sha256: str, to: str) -> str | None:
        from etl import daily_report

        if daily_report.was_mailed(bucket(), day(), sha256, to):
            return None
        params = get_current_context()["params"]
        if not params["mail"]:
            return None
        always = Variable.get("report_approval", default="false").lower() == "true"
        return "approve" if always or params["approval"] else "send_mail"

    @task
    def note_mail(sha256: str, to: str) -> None:
        from etl import daily_report

        daily_report.note_mail(bucket(), day(), sha256, to)

    usual, domains = (f"var.value.get('report_{name}', '')" for name in ("recipients", "recipient_domains"))
    to = f"{{{{ recipients(params.recipients, {usual}, {domains}) }}}}"
    combined = combine(fetch_rates.output)
    load, rows = load_warehouse()
    report = render(combined, rows)
    chosen = choose(report["sha256"], to)
    approve = ApprovalOperator(
        task_id="approve",
        subject=report["subject"],
        body="```\n{{ ti.xcom_pull(task_ids='render', key='text') }}\n```",
        response_timeout=timedelta(days=1),
        retry_policy=SourceRetryPolicy(),
    )
    send_mail = ReportEmailOperator(
        task_id="send_mail",
        to=to,
        subject=report["subject"],
        html_content=report["html"],
        text_content=report["text"],
        pictures=report["pictures"],
        # A mail that a retry sends twice, since its server's answer was lost, is known as one by its id.
        custom_headers={"Message-ID": f"<{DAY}.{STAGING}.{{{{ dag_run.clear_number or 0 }}}}@airstrip>"},
        pre_execute=refuse_outdated,
        trigger_rule="none_failed_min_one_success",
    )
    check_settings(to, ORDERS, RATES, WAREHOUSE, "smtp_default") >> arrived >> [extract_orders, fetch_rates]
    extract_orders >> combined >> load
    chosen >> [approve, send_mail]
    approve >> send_mail >> note_mail(report["sha256"], to)


def load_warehouse() -> tuple[TaskGroup, Any]:
    """Replace the day in the warehouse by what was combined; return the tasks, and what the report is made from."""
    from etl import report_layout
    from etl.warehouse import WAREHOUSES

    kind, schema = environment("WAREHOUSE", "postgres"), environment("SCHEMA")
    if kind not in WAREHOUSES:
        known = ", ".join(WAREHOUSES)
        raise ValueError(f"report_warehouse is {kind!r}: set airflow_variables.report_warehouse to one of {known}")
    tables = WAREHOUSES[kind](schema) if schema else WAREHOUSES[kind]()
    client = BigQueryClient() if kind == "bigquery" else SqlClient()
    figures = tables.figures(f"{{{{ macros.ds_add(day(dag_run), {1 - report_layout.DAYS}) }}}}", DAY)
    with TaskGroup("load") as group:
        create = client.run("create", tables.create(STAGING))
        if kind == "redshift":
            role = environment("REDSHIFT_ROLE", "default")
            stage = client.run("stage", tables.copy(STAGING, f"s3://{BUCKET}/{report_layout.sales(DAY)}", role))
        else:
            stage = client.stage(tables)
        check_columns = client.check_columns(
            task_id="check_columns",
            table=tables.table(STAGING),
            column_mapping={
                "sale_id": {"null_check": {"equal_to": 0}},
                "amount_eur": {"null_check": {"equal_to": 0}},
                "day": {"null_check": {"equal_to": 0}, "distinct_check": {"leq_to": 1}},
            },
        )
        check_rows = client.check_table(
            task_id="check_rows",
            table=tables.table(STAGING),
            checks={
                "all_rows_arrived": {
                    "check_statement": "count(*) = {{ ti.xcom_pull(task_ids='combine')['accepted'] }}"
                },
                "all_of_the_day": {"check_statement": f"count(case when day <> date '{DAY}' then 1 end) = 0"},
            },
        )
        publish = client.run("publish", tables.publish(STAGING, DAY))
        drop = client.run("drop", [tables.drop(STAGING)])
        create >> stage >> [check_columns, check_rows] >> publish
        # Who clears any of these has the table made and filled anew before it.
        publish >> drop.as_teardown(setups=[create, stage])
    rows = client.rows("read_figures", figures)
    group >> rows
    return group, rows


class SqlClient:
    """Makes the tasks of PostgreSQL and Redshift."""

    def __init__(self) -> None:
        self.check_columns = partial(SQLColumnCheckOperator, conn_id=WAREHOUSE, retry_on_failure=False)
        self.check_table = partial(SQLTableCheckOperator, conn_id=WAREHOUSE, retry_on_failure=False)

    def run(self, task_id: str, statements: list[str]) -> Any:
        """Run statements in one transaction."""
        return SQLExecuteQueryOperator(task_id=task_id, conn_id=WAREHOUSE, sql=statements, do_xcom_push=False)

    def stage(self, tables: Any) -> Any:
        """Stream the combined rows into the staging table."""

        @task
        def stage(staging: str) -> None:
            from airflow.providers.postgres.hooks.postgres import PostgresHook

            from etl import report_layout
            from etl import warehouse as statements

            with closing(PostgresHook(WAREHOUSE).get_conn()) as connection:
                statements.copy(connection, tables, staging, bucket(), report_layout.sales(day()))

        return stage(STAGING)

    def rows(self, task_id: str, query: str) -> Any:
        """Return the rows of a query."""
        return SQLExecuteQueryOperator(task_id=task_id, conn_id=WAREHOUSE, sql=query).output


class BigQueryRows:
    """As much of a hook as checks need: Google's own check operators ask a second API, which wants its own rights."""

    def get_records(self, query: str) -> list[list[Any]]:
        """Return the rows of a query."""
        from airflow.providers.google.cloud.hooks.bigquery import BigQueryHook

        hook = BigQueryHook(gcp_conn_id=WAREHOUSE, use_legacy_sql=False)
        return [list(row.values()) for row in hook.get_client(hook.project_id).query_and_wait(query)]


class BigQueryColumnCheck(SQLColumnCheckOperator):
    """Checks columns in BigQuery."""

    def get_db_hook(self) -> Any:
        """Return where the query is run."""
        return BigQueryRows()


class BigQueryTableCheck(SQLTableCheckOperator):
    """Checks a table in BigQuery."""

    def get_db_hook(self) -> Any:
        """Return where the query is run."""
        return BigQueryRows()


class BigQueryClient:
    """Makes the tasks of BigQuery, whose packages are those of `airflow_extras: [bigquery]`."""

    def __init__(self) -> None:
        try:
            from airflow.providers.google.cloud.operators import bigquery
        except ModuleNotFoundError:
            raise ValueError(
                "report_warehouse is bigquery, whose packages are missing: set airflow_extras: [bigquery]"
            ) from None
        self.check_columns = partial(BigQueryColumnCheck, conn_id=WAREHOUSE, retry_on_failure=False)
        self.check_table = partial(BigQueryTableCheck, conn_id=WAREHOUSE, retry_on_failure=False)
        self._job = partial(bigquery.BigQueryInsertJobOperator, gcp_conn_id=WAREHOUSE)

    def run(self, task_id: str, statements: list[str]) -> Any:
        """Run statements as one job. A request that is repeated because its answer was lost begins no second one."""
        query = {"query": ";\n".join(statements), "useLegacySql": False}
        return self._job(
            task_id=task_id,
            configuration={"query": query},
            job_id=f"airstrip_{task_id}_{STAGING}_{{{{ ti.try_number }}}}",
            force_rerun=False,
            reattach_states={"PENDING", "RUNNING"},
        )

    def stage(self, tables: Any) -> Any:
        """Upload the combined rows into the staging table."""

        @task
        def stage(staging: str) -> None:
            from airflow.providers.google.cloud.hooks.bigquery import BigQueryHook
            from google.cloud.bigquery import LoadJobConfig

            from etl import report_layout

            hook = BigQueryHook(gcp_conn_id=WAREHOUSE, use_legacy_sql=False)
            configuration = LoadJobConfig(source_format="CSV", skip_leading_rows=1, write_disposition="WRITE_TRUNCATE")
            table = f"{hook.project_id}.{tables.table(staging)}"
            with bucket().reader(report_layout.sales(day())) as packed, gzip.open(packed) as rows:
                hook.get_client(hook.project_id).load_table_from_file(rows, table, job_config=configuration).result()

        return stage(STAGING)

    def rows(self, task_id: str, query: str) -> Any:
        """Return the rows of a query."""

        @task(task_id=task_id)
        def rows(query: str) -> list[list[Any]]:
            return BigQueryRows().get_records(query)

        return rows(query)


daily_report()
