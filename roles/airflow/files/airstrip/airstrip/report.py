"""The tasks of the DAG `daily_report`, and what they take from Airflow: variables, connections, the run's day.

`etl` knows no Airflow, and is imported where a task needs it: a DAG file must be read in a moment.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

from airflow.sdk import Connection, Variable, get_current_context
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException, AirflowRuntimeError

from airstrip.retries import coming_back

WAREHOUSE = "warehouse"
# The connections are a setting: a host on which nobody wants the report need not have them.
ORDERS = "{{ var.value.get('report_orders_connection', 'orders') }}"
RATES = "{{ var.value.get('report_rates_connection', 'exchange_rates') }}"
DAY = "{{ day(dag_run) }}"
STAGING = "{{ staging(dag_run) }}"
BUCKET = "{{ var.value.report_bucket }}"
# Prefix of the id of a run that only reports a day again.
RESTATED = "restated__"
# They shape the DAG: the parser and the tasks have the same environment, and nobody else is asked.
SHAPING = ["warehouse", "schema", "redshift_role"]


def shaping(name: str) -> str:
    """Return a variable that shapes the DAG."""
    return os.environ.get(f"AIRFLOW_VAR_REPORT_{name.upper()}", "")


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


def claim() -> None:
    """Claim the day for this run, once no other unfinished run is about it."""
    from etl.report import notes

    context = get_current_context()
    run = context["dag_run"]
    owner = notes.owner(bucket(), day())
    with coming_back():
        if owner not in ("", run.run_id) and goes_on(context["ti"], run.dag_id, owner):
            raise notes.InUse(f"{owner} is about {day()} too: this run waits for its end")
    notes.claim(bucket(), day(), run.run_id)


def goes_on(ti: Any, dag: str, run: str) -> bool:
    """Return whether a run has not ended; one that was deleted has."""
    try:
        return ti.get_dagrun_state(dag, run) in ("queued", "running")
    except AirflowRuntimeError:
        return False


def held() -> tuple[Any, date]:
    """Return the storage and the run's day. Raises TakenOver where another run has claimed it since."""
    from etl.report import notes

    found, own = bucket(), day()
    notes.hold(found, own, get_current_context()["dag_run"].run_id)
    return found, own


def check_settings(recipients: str, *connections: str) -> None:
    """Claim the day. Raises AirflowFailException where something is missing or would be ignored, with what to set."""
    given = {"report_bucket": Variable.get("report_bucket", default=""), "report_recipients": recipients}
    missing = [f"airflow_variables.{name}" for name, value in given.items() if not value]
    for identifier in connections:
        try:
            Connection.get(identifier)
        except AirflowNotFoundException:
            missing.append(f"airflow_connections.{identifier}")
    if missing:
        raise AirflowFailException(f"set {', '.join(missing)} and run playbooks/site.yml --tags airflow")
    ignored = [name for name in SHAPING if Variable.get(f"report_{name}", default="") != shaping(name)]
    if ignored:
        raise AirflowFailException(
            f"{', '.join(f'report_{name}' for name in ignored)} cannot be set in the user interface or in a secrets "
            "backend: set it in airflow_variables and run playbooks/site.yml --tags airflow"
        )
    claim()


def extract_orders(connection: str) -> None:
    """Stream the orders of the run's day to S3."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    from etl.report import notes, orders

    began = datetime.now(UTC)
    with closing(PostgresHook(connection).get_conn()) as source:
        orders.extract(source, *held())
    notes.note_orders(*held(), began)


def next_page(response: Any) -> dict[str, str] | None:
    """Return where HttpOperator finds the next page of rates."""
    from etl.report import rates

    following = rates.next_page(response.text)
    return {"endpoint": following} if following else None


def read_rates(responses: list[Any], dag_run: Any) -> dict[str, str]:
    """Return the rates of all pages."""
    from etl.report import rates

    return rates.rates([response.text for response in responses], date.fromisoformat(day_of(dag_run)))


def combine(rates: dict[str, str]) -> dict[str, Any]:
    """Clean both sources of the run's day, and write them as one table; return what became of their rows."""
    from etl.report import combining, notes

    notes.refuse_old_orders(*held(), datetime.now(UTC))
    counts = combining.combine(*held(), rates, Variable.get("report_decimal_mark", default=""))
    notes.note_counts(*held(), counts)
    return {
        "accepted": sum(count.accepted for count in counts.values()),
        "counts": {channel: asdict(count) for channel, count in counts.items()},
    }


def render(combined: dict[str, Any], rows: list[Any]) -> dict[str, Any]:
    """Write the report of the run's day; return its mail."""
    from etl.report import combining, rendering

    counts = {channel: combining.Count(**count) for channel, count in combined["counts"].items()}
    tolerated = float(Variable.get("report_most_refused_percent", default="1"))
    return rendering.render(*held(), rows, counts, tolerated)


def restatements(restated: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each day the run that tells the same people its new numbers: one, whichever run finds the need.

    Such a run starts no other. What it may have changed itself is found by the next regular run.
    """
    context = get_current_context()
    if context["dag_run"].run_id.startswith(RESTATED):
        return []
    wanted = {name: context["params"][name] for name in ("mail", "approval")}
    runs = []
    for one in restated:
        # The day of a run is the last one that is over when it may begin; no two runs of a DAG share a logical date.
        over = datetime.fromisoformat(f"{one['day']}T00:00:00+00:00") + timedelta(days=1)
        runs.append(
            {
                "trigger_run_id": f"{RESTATED}{one['day']}__{one['report']}",
                "run_after": over.isoformat(),
                "logical_date": (over + timedelta(milliseconds=one["report"])).isoformat(),
                "conf": {**wanted, "recipients": one["recipients"]},
            }
        )
    return runs


def choose(sha256: str, to: str) -> str | None:
    """Return the task that follows: a mail, its approval before, or nothing."""
    from etl.report import notes

    params = get_current_context()["params"]
    if notes.was_mailed(*held(), sha256, to) or not params["mail"]:
        return None
    always = Variable.get("report_approval", default="false").lower() == "true"
    return "approve" if always or params["approval"] else "send_mail"


def note_mail(sha256: str, to: str) -> None:
    """Note what was mailed to whom."""
    from etl.report import notes

    # The mail is out, whoever has the day by now.
    notes.note_mail(bucket(), day(), sha256, to)


def refuse_old_orders(context: Any) -> None:
    """Keep a run that has lost its day, or read its orders long ago, away from the warehouse."""
    from etl.report import notes

    notes.refuse_old_orders(*held(), datetime.now(UTC))


def refuse_outdated(context: Any) -> None:
    """Send no mail about a day if another run has made a newer report meanwhile."""
    from etl.report import notes

    sha256 = context["ti"].xcom_pull(task_ids="render", key="sha256")
    if not notes.is_newest(*held(), sha256):
        raise AirflowFailException("another run made a newer report of this day: clear the task `render` to mail that")


def recipients_of(asked: list[str], usual: str, domains: str) -> str:
    """Return who is mailed. Each task that needs it asks again: whoever may trigger may also skip a task."""
    from etl.report.recipients import recipients

    try:
        return recipients(asked, usual, domains)
    except PermissionError as error:
        raise AirflowFailException(str(error)) from None
