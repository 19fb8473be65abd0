"""### The business report of a UTC day

Reads orders from a database, exchange rates from an API and the receipts that shops deliver to S3, cleans and
combines them, replaces the day in the warehouse, and mails the warehouse's numbers to `report_recipients`.

**Again?** Clear or run a day as often as you like: the day in the warehouse then matches its sources. A mail
goes out when the report differs from the last one mailed. If an order's time changes, it leaves the day
it was on: that day is run again automatically, and its recipients are mailed again.

**A number failed its check?** The mail says why. Refused rows are stored with their reasons below
`s3://<report_bucket>/quarantine/report/sales/dt=<day>/`; correct the source and run the day again.

**Waiting for the shops?** Their file is `s3://<report_bucket>/incoming/report/receipts/dt=<day>/receipts.csv`.

**To see it before others do**, tick *approval* (or set `report_approval`): the run then waits under *Required Actions*.

Anyone who can trigger a run can mail fewer people or ask for an approval. Only the administrator can add people:
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
        # A role that may only list a prefix can see what is there, but AWS refuses a request for a missing object.
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
    # A day may wait for shops or approval while others run. If two runs are for one day, the second waits.
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
        # If a retry sends a mail twice because the server's answer was lost, its id shows that it is the same.
        custom_headers={"Message-ID": f"<{report.DAY}.{report.STAGING}.{{{{ dag_run.clear_number or 0 }}}}@airstrip>"},
        pre_execute=report.refuse_outdated,
        trigger_rule="none_failed_min_one_success",
    )
    # An order has one day: recipients of the report that it has left get a new one.
    TriggerDagRunOperator.partial(
        task_id="restate", trigger_dag_id="daily_report", skip_when_already_exists=True
    ).expand_kwargs(task(report.restatements)(made["restated"]))
    orders = task(report.extract_orders)(report.ORDERS)
    # One at a time, or two simultaneous runs would both find the day free.
    check_settings = task(max_active_tis_per_dag=1)(report.check_settings)
    settings = check_settings(to, report.ORDERS, report.RATES, report.WAREHOUSE, "smtp_default")
    settings >> receipts_have_come() >> [orders, fetch_rates]
    orders >> combined >> load
    chosen >> [approve, send_mail]
    approve >> send_mail >> task(report.note_mail)(made["sha256"], to)


daily_report()
