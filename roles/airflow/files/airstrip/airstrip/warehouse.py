"""The tasks that replace a day in the warehouse of the business report, in whichever database it is."""

from __future__ import annotations

import gzip
from contextlib import closing
from functools import partial
from typing import Any

from airflow.providers.common.sql.operators.sql import (
    SQLColumnCheckOperator,
    SQLExecuteQueryOperator,
    SQLTableCheckOperator,
)
from airflow.sdk import TaskGroup, task

from airstrip import report


def load() -> tuple[TaskGroup, Any]:
    """Replace the day in the warehouse by what was combined; return the tasks, and what the report is made from."""
    from etl.report import layout
    from etl.report.warehouse import WAREHOUSES

    kind, schema = report.shaping("warehouse") or "postgres", report.shaping("schema")
    if kind not in WAREHOUSES:
        known = ", ".join(WAREHOUSES)
        raise ValueError(f"report_warehouse is {kind!r}: set airflow_variables.report_warehouse to one of {known}")
    tables = WAREHOUSES[kind](schema) if schema else WAREHOUSES[kind]()
    client = BigQueryClient() if kind == "bigquery" else SqlClient()
    around = [
        f"{{{{ macros.ds_add(day(dag_run), {days}) }}}}" for days in (1 - layout.MOVES - layout.DAYS, layout.MOVES)
    ]
    figures = tables.figures(*around)
    with TaskGroup("load") as group:
        create = client.run("create", tables.create(report.STAGING))
        if kind == "redshift":
            role = report.shaping("redshift_role") or "default"
            stage = client.run(
                "stage", tables.copy(report.STAGING, f"s3://{report.BUCKET}/{layout.sales(report.DAY)}", role)
            )
        else:
            stage = client.stage(tables)
        checked = checks(client, tables.table(report.STAGING))
        publish = client.run(
            "publish", tables.publish(report.STAGING, report.DAY), pre_execute=report.refuse_old_orders
        )
        drop = client.run("drop", [tables.drop(report.STAGING)])
        create >> stage >> checked >> publish
        # Clearing any of these first makes and fills the table anew.
        publish >> drop.as_teardown(setups=[create, stage])
    rows = client.rows("read_figures", figures)
    group >> rows
    return group, rows


def checks(client: Any, staging: str) -> list[Any]:
    """Return the tasks that look at the staged rows before the day is touched."""
    from etl.report.contract import SALES

    wanted: dict[str, dict[str, Any]] = {name: {"null_check": {"equal_to": 0}} for name in SALES.names}
    wanted["day"]["distinct_check"] = {"leq_to": 1}
    columns = client.check_columns(task_id="check_columns", table=staging, column_mapping=wanted)
    arrived = "count(*) = {{ ti.xcom_pull(task_ids='combine')['accepted'] }}"
    of_the_day = f"count(case when day <> date '{report.DAY}' then 1 end) = 0"
    rows = client.check_table(
        task_id="check_rows",
        table=staging,
        checks={
            "all_rows_arrived": {"check_statement": arrived},
            "all_of_the_day": {"check_statement": of_the_day},
        },
    )
    return [columns, rows]


def stored() -> tuple[Any, str]:
    """Return where the rows of the run's day are, which nobody else has claimed."""
    from etl.report import layout

    bucket, day = report.held()
    return bucket, layout.sales(day)


class SqlClient:
    """Makes the tasks of PostgreSQL and Redshift."""

    def __init__(self) -> None:
        self.check_columns = partial(SQLColumnCheckOperator, conn_id=report.WAREHOUSE, retry_on_failure=False)
        self.check_table = partial(SQLTableCheckOperator, conn_id=report.WAREHOUSE, retry_on_failure=False)

    def run(self, task_id: str, statements: list[str], **options: Any) -> Any:
        """Run statements in one transaction."""
        return SQLExecuteQueryOperator(
            task_id=task_id, conn_id=report.WAREHOUSE, sql=statements, do_xcom_push=False, **options
        )

    def stage(self, tables: Any) -> Any:
        """Stream the combined rows into the staging table."""

        @task
        def stage(staging: str) -> None:
            from airflow.providers.postgres.hooks.postgres import PostgresHook

            from etl.report import warehouse as statements

            with closing(PostgresHook(report.WAREHOUSE).get_conn()) as connection:
                statements.copy(connection, tables, staging, *stored())

        return stage(report.STAGING)

    def rows(self, task_id: str, query: str) -> Any:
        """Return the rows of a query."""
        return SQLExecuteQueryOperator(task_id=task_id, conn_id=report.WAREHOUSE, sql=query).output


class BigQueryRows:
    """As much of a hook as checks need: Google's own check operators call a second API, which needs its own rights."""

    def get_records(self, query: str) -> list[list[Any]]:
        """Return the rows of a query."""
        from airflow.providers.google.cloud.hooks.bigquery import BigQueryHook

        hook = BigQueryHook(gcp_conn_id=report.WAREHOUSE, use_legacy_sql=False)
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
        self.check_columns = partial(BigQueryColumnCheck, conn_id=report.WAREHOUSE, retry_on_failure=False)
        self.check_table = partial(BigQueryTableCheck, conn_id=report.WAREHOUSE, retry_on_failure=False)
        self._job = partial(bigquery.BigQueryInsertJobOperator, gcp_conn_id=report.WAREHOUSE)

    def run(self, task_id: str, statements: list[str], **options: Any) -> Any:
        """Run statements as one job. A request that is repeated because its answer was lost starts no second one."""
        query = {"query": ";\n".join(statements), "useLegacySql": False}
        return self._job(
            task_id=task_id,
            configuration={"query": query},
            job_id=f"airstrip_{task_id}_{report.STAGING}_{{{{ ti.try_number }}}}",
            force_rerun=False,
            reattach_states={"PENDING", "RUNNING"},
            **options,
        )

    def stage(self, tables: Any) -> Any:
        """Upload the combined rows into the staging table."""

        @task
        def stage(staging: str) -> None:
            from airflow.providers.google.cloud.hooks.bigquery import BigQueryHook
            from google.cloud.bigquery import LoadJobConfig

            hook = BigQueryHook(gcp_conn_id=report.WAREHOUSE, use_legacy_sql=False)
            configuration = LoadJobConfig(source_format="CSV", skip_leading_rows=1, write_disposition="WRITE_TRUNCATE")
            table = f"{hook.project_id}.{tables.table(staging)}"
            bucket, key = stored()
            with bucket.reader(key) as packed, gzip.open(packed) as rows:
                hook.get_client(hook.project_id).load_table_from_file(rows, table, job_config=configuration).result()

        return stage(report.STAGING)

    def rows(self, task_id: str, query: str) -> Any:
        """Return the rows of a query."""

        @task(task_id=task_id)
        def rows(query: str) -> list[list[Any]]:
            return BigQueryRows().get_records(query)

        return rows(query)
