"""### A picture of each user's day on X

Runs whenever the DAG `twitter` has published a day (the asset `x_posts`) and writes below
`s3://<x_bucket>/curated/x/summary/dt=<day>/` one `summary.csv` and a `summary.png` for each user. After a backfill
one run may cover several days. A manual run needs the day. In addition, `curated/x/bill/month=….csv` says
what X charged in this month, by day and user.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Asset, Param, Variable, dag, task
from airflow.sdk.exceptions import AirflowFailException

from airstrip.notices import notify_failure
from etl.x.contract import POSTS

# The gate refuses a release in which the DAG twitter no longer publishes one of these.
READS = POSTS.read_by("twitter_summary", "username", "post_id", "created_at", "like_count", "retweet_count")


@dag(
    schedule=[Asset("x_posts")],
    # Nothing happens until the DAG twitter is switched on.
    is_paused_upon_creation=False,
    catchup=False,
    # At its cap of runs Airflow leaves the last of many events to the next one (its issue 56050).
    max_active_runs=16,
    default_args={"owner": "data", "retries": 3, "retry_delay": timedelta(minutes=1)},
    on_failure_callback=notify_failure,
    tags=["x", "s3"],
    params={"day": Param(None, type=["null", "string"], format="date", description="The day, in a run by hand.")},
    doc_md=__doc__,
)
def twitter_summary() -> None:
    """Summarise each day of the events."""

    @task
    def summarise(params: dict[str, Any], triggering_asset_events: Any = None) -> list[str]:
        from etl import storage
        from etl.x import bill, summary

        events = [event.extra for found in (triggering_asset_events or {}).values() for event in found]
        days = summary.days(events or [{"day": day} for day in [params["day"]] if day])
        if not days:
            raise AirflowFailException("there is no event to say which day: give the day in the trigger form")
        bucket = storage.Storage(f"s3://{Variable.get('x_bucket')}")
        written = [address for day in days for address in summary.summarise(bucket, day, READS)]
        return [*written, bill.write_bill(bucket, datetime.now(UTC).date())]

    summarise()


twitter_summary()
