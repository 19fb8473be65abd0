"""### The business report of a UTC day

Takes the orders of a database, the exchange rates of an API and the receipts that the shops deliver to S3, cleans and
combines them, replaces the day in the warehouse, and mails what the warehouse then says to `report_recipients`.

**Again?** Clear or run a day as often as you like: the day in the warehouse becomes what its sources say now. A mail
goes out when the report differs from the one that was mailed last. An order whose time was changed leaves the day
where it was: that day is run again by itself, and whoever was told of it is told again.

**A number failed its check?** The mail says why. Refused rows are stored with their reasons below
`s3://<report_bucket>/quarantine/report/sales/dt=<day>/`; correct the source and run the day again.

**Waiting for the shops?** Their file is `s3://<report_bucket>/incoming/report/receipts/dt=<day>/receipts.csv`.

**To see it before others do**, tick *approval* (or set `report_approval`): the run then waits under *Required Actions*.

Whoever may trigger a run may mail fewer people or ask for an approval. Other people are the administrator's:
`report_recipients`, or their domain in `report_recipient_domains`.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.providers.amazon.aws.sensors.s3 import S3KeySensor
from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import CronDataIntervalTimetable, Param, dag, task

from airstrip import report, warehouse
from airstrip.mail import ReportEmailOperator
from airstrip.notices import notify_failure
from airstrip.retries import EtlRetryPolicy
from etl.report.contract import SALES


def receipts_have_come() -> S3KeySensor:
    """Wait for the file of the shops."""
    # It imports nothing that costs the parser time.
    from etl.report import layout

    return S3KeySensor(
        task_id="receipts_have_come",
        bucket_name=report.BUCKET,
        bucket_key=layout.receipts(report.DAY),
        # A role that may list a prefix is told by AWS what is there, but refused where it asks for what is not.
        wildcard_match=True,
        aws_conn_id=None,
        deferrable=True,
        poke_interval=60,
        timeout=timedelta(hours=12).total_seconds(),
        retries=1,
        doc_md="The shops deliver a day's receipts on the morning after it; the orders are read then, too.",
    )


@dag(
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    start_date=pendulum.datetime(2020, 1, 1, tz="UTC"),
    catchup=False,
    # A day may wait for its shops or its approval while others run. Of two runs about one day the second waits.
    max_active_runs=16,
    default_args={
        "owner": "data",
        "retries": 5,
        "retry_delay": timedelta(minutes=1),
        "retry_policy": EtlRetryPolicy(),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=15),
        "execution_timeout": timedelta(hours=1),
    },
    on_failure_callback=notify_failure,
    tags=["report", "s3"],
    user_defined_macros={"day": report.day_of, "staging": report.staging_of, "recipients": report.recipients_of},
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
    doc_md=f"{__doc__}\n{SALES.markdown()}",
)
def daily_report() -> None:
    """Extract from three sources, combine, load, check, report, mail."""
    fetch_rates = HttpOperator(
        task_id="fetch_rates",
        http_conn_id=report.RATES,
        method="GET",
        endpoint=f"{{{{ var.value.get('report_rates_endpoint', 'rates/') }}}}{report.DAY}",
        extra_options={"timeout": 30},
        pagination_function=report.next_page,
        response_filter=report.read_rates,
    )

    usual, domains = (f"var.value.get('report_{name}', '')" for name in ("recipients", "recipient_domains"))
    to = f"{{{{ recipients(params.recipients, {usual}, {domains}) }}}}"
    combined = task(report.combine)(fetch_rates.output)
    load, rows = warehouse.load()
    made = task(multiple_outputs=True)(report.render)(combined, rows)
    chosen = task.branch(report.choose)(made["sha256"], to)
    approve = ApprovalOperator(
        task_id="approve",
        subject=made["subject"],
        body="```\n{{ ti.xcom_pull(task_ids='render', key='text') }}\n```",
        response_timeout=timedelta(days=1),
    )
    send_mail = ReportEmailOperator(
        task_id="send_mail",
        to=to,
        subject=made["subject"],
        html_content=made["html"],
        text_content=made["text"],
        pictures=made["pictures"],
        # A mail that a retry sends twice, since its server's answer was lost, is known as one by its id.
        custom_headers={"Message-ID": f"<{report.DAY}.{report.STAGING}.{{{{ dag_run.clear_number or 0 }}}}@airstrip>"},
        pre_execute=report.refuse_outdated,
        trigger_rule="none_failed_min_one_success",
    )
    # An order has one day: whoever was told of another, which it has left, is told again.
    TriggerDagRunOperator.partial(
        task_id="restate", trigger_dag_id="daily_report", skip_when_already_exists=True
    ).expand_kwargs(task(report.restatements)(made["restated"]))
    orders = task(report.extract_orders)(report.ORDERS)
    # One at a time, or two runs that begin together would both find the day free.
    check_settings = task(max_active_tis_per_dag=1)(report.check_settings)
    settings = check_settings(to, report.ORDERS, report.RATES, report.WAREHOUSE, "smtp_default")
    settings >> receipts_have_come() >> [orders, fetch_rates]
    orders >> combined >> load
    chosen >> [approve, send_mail]
    approve >> send_mail >> task(report.note_mail)(made["sha256"], to)


daily_report()
