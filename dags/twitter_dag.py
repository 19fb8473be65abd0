"""The posts of the wanted X users, as one CSV a day on S3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import pendulum
from airflow.sdk import Connection, CronDataIntervalTimetable, Param, Variable, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException


@contextmanager
def failing_at_once() -> Iterator[None]:
    """Fail without the retries that could not help: they would only hide the message for an hour."""
    from etl import twitter_etl

    try:
        yield
    except (twitter_etl.XApiError, twitter_etl.BucketRefused) as error:
        raise AirflowFailException(str(error)) from error


def client() -> Any:
    """Return the X API client of the connection x_api."""
    from etl import twitter_etl

    try:
        connection = Connection.get("x_api")
    except AirflowNotFoundException:
        raise twitter_etl.XApiError(
            "there is no connection x_api: set airflow_connections.x_api and run playbooks/site.yml"
        ) from None
    return twitter_etl.x_client(connection.password or "", connection.host or "https://api.x.com")


def setting(name: str) -> str:
    """Return the Airflow variable of that name."""
    from etl import twitter_etl

    value = Variable.get(name, default="")
    if not value:
        raise twitter_etl.XApiError(f"{name} is not set: set airflow_variables.{name} and run playbooks/site.yml")
    return value


def interval() -> tuple[datetime, datetime]:
    """Return the run's day [start, end); a run without a logical date means the day before it."""
    run = get_current_context()["dag_run"]
    if run.data_interval_start and run.data_interval_end:
        return run.data_interval_start, run.data_interval_end
    today = run.run_after.replace(hour=0, minute=0, second=0, microsecond=0)
    return today - timedelta(days=1), today


@dag(
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    start_date=pendulum.datetime(2026, 11, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={
        "owner": "data",
        "retries": 3,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": True,
    },
    tags=["x", "s3"],
    params={
        "usernames": Param(
            [],
            type="array",
            items={"type": "string", "pattern": "^@?[A-Za-z0-9_]{1,15}$"},
            maxItems=100,
            description="X users to read in this run; none means those of the variable x_usernames.",
        )
    },
    doc_md=__doc__,
)
def twitter() -> None:
    """Resolve the users, read each one's day in a task of its own, write one object."""

    @task
    @failing_at_once()
    def resolve_users(params: dict[str, Any] | None = None) -> list[dict[str, str]]:
        from etl import twitter_etl

        usernames = (params or {}).get("usernames") or setting("x_usernames").split(",")
        return [asdict(user) for user in twitter_etl.resolve_users(client(), usernames)]

    @task(map_index_template="{{ task.op_kwargs['user']['username'] }}", max_active_tis_per_dagrun=2)
    @failing_at_once()
    def fetch_posts(user: dict[str, str]) -> list[dict[str, Any]]:
        from etl import twitter_etl

        owner = twitter_etl.User(**user)
        posts = twitter_etl.fetch_posts(client(), owner, *interval())
        return [twitter_etl.clean_post(owner, post) for post in posts]

    @task
    @failing_at_once()
    def store_csv(rows_by_user: list[list[dict[str, Any]]]) -> str:
        import s3fs

        from etl import twitter_etl

        content = twitter_etl.to_csv(twitter_etl.to_frame(row for rows in rows_by_user for row in rows))
        key = twitter_etl.object_key(interval()[0])
        return twitter_etl.store(s3fs.S3FileSystem(), setting("x_bucket"), key, content)

    store_csv(fetch_posts.expand(user=resolve_users()))


twitter()
