"""### Posts of X users, one UTC day a run

Looks the users up, reads each one's day in a task of its own, and publishes one CSV a user below
`s3://<x_bucket>/curated/x/posts/dt=<day>/`, the manifest last. The asset `x_posts` then has an event with the
rows, the cost and the manifest's SHA-256.

**Again?** Clear or run a day as often as you like: pages that were bought are kept below `raw/x/posts/` and
never asked for again. A rate limit shows as *up for retry* until X's window ends; the task then goes on behind its
last page. To buy a day once more, delete `raw/x/posts/dt=<day>/` first.

**Stopped by the budget, a cap or missing credits?** Raise `x_max_usd` (or buy credits), then clear the failed tasks.

**Older days:** *Trigger → Backfill*. X shows a user's newest 3,200 posts and no more.

Each field of the trigger form stands for one run; empty means the Airflow variable of that name with `x_` before it.
Whoever may trigger a run may lower its budget; to raise it is the administrator's.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import Any

import pendulum
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import (
    Asset,
    Connection,
    CronDataIntervalTimetable,
    Param,
    RetryDecision,
    RetryPolicy,
    Variable,
    dag,
    get_current_context,
    task,
)
from airflow.sdk.exceptions import AirflowNotFoundException

from airstrip.notices import notify_failure

POSTS = Asset("x_posts")
# A run without a logical date is about the day before it.
END = "(dag_run.data_interval_end or dag_run.run_after.replace(hour=0, minute=0, second=0, microsecond=0))"
SETTLE = "var.value.get('x_settle_minutes', 65)"
# Airflow accepts any other key with a run; those are ignored here.
FORM = {
    "usernames": Param(
        [],
        type="array",
        items={"type": "string", "pattern": "^@?[A-Za-z0-9_]{1,15}$"},
        maxItems=100,
        uniqueItems=True,
        description="X users to read, one a line.",
    ),
    "max_posts": Param(
        None, type=["null", "integer"], minimum=5, description="Posts that the day may buy, up to x_max_posts."
    ),
    "max_usd": Param(
        None, type=["null", "number"], minimum=0.03, description="USD that the day may cost, up to x_max_usd."
    ),
    "output_formats": Param(
        [],
        type="array",
        items={"type": "string", "enum": ["csv", "parquet"]},
        uniqueItems=True,
        examples=["csv", "parquet"],
        description="csv, and parquet beside it.",
    ),
    "strict": Param(None, type=["null", "boolean"], description="Fail where a user is not shown."),
}


class XRetryPolicy(RetryPolicy):
    """Come back when X says, and fail at once where waiting does not help."""

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        from etl import storage, twitter_etl, x_api

        if isinstance(exception, x_api.RateLimited):
            return RetryDecision.retry(timedelta(seconds=exception.seconds), str(exception))
        if isinstance(exception, (x_api.XApiError, storage.StorageRefused, twitter_etl.QualityError)):
            return RetryDecision.fail(str(exception))
        return RetryDecision.default()


def setting(name: str, default: Any = "") -> Any:
    """Return the field of the trigger form, else the Airflow variable, else the default."""
    given = get_current_context()["params"][name] if name in FORM else None
    return Variable.get(f"x_{name}", default=default) if given in (None, "", []) else given


def switch(name: str, default: str) -> bool:
    """Return a setting that is on or off."""
    return str(setting(name, default)).lower() in ("true", "yes", "on", "1")


def words(value: str | list[str]) -> list[str]:
    """Return the items of a list, or of a text with commas."""
    return [word.strip() for word in (value.split(",") if isinstance(value, str) else value) if word.strip()]


def client() -> Any:
    """Return the X API client of the connection x_api."""
    from etl import x_api

    try:
        connection = Connection.get("x_api")
    except AirflowNotFoundException:
        raise x_api.XApiError(
            "there is no connection x_api: set airflow_connections.x_api and run playbooks/site.yml"
        ) from None
    extra = dict(connection.extra_dejson)
    dialect = extra.pop("dialect", "tweet")
    try:
        keys = x_api.Keys(connection.password or "", **extra)
    except TypeError as error:
        raise x_api.XApiError(f"the extra of the connection x_api has a key that is not known: {error}") from None
    return x_api.Client(keys, connection.host or x_api.BASE_URL, dialect)


def bucket() -> Any:
    """Return the storage of the variable x_bucket."""
    from etl import storage, x_api

    name = setting("bucket")
    if not name:
        raise x_api.XApiError("x_bucket is not set: set airflow_variables.x_bucket and run playbooks/site.yml")
    return storage.Storage(f"s3://{name}")


def budget() -> Any:
    """Return what the run's day may buy: what the variables allow, or less."""
    from etl import twitter_etl

    usual, params = twitter_etl.Budget(), get_current_context()["params"]
    most = twitter_etl.Budget(
        int(Variable.get("x_max_posts", default=usual.max_posts)),
        float(Variable.get("x_max_usd", default=usual.max_usd)),
    )
    return most.lowered(params["max_posts"], params["max_usd"])


def day() -> date:
    """Return the run's day."""
    from etl import twitter_etl

    run = get_current_context()["dag_run"]
    end: datetime = run.data_interval_end or run.run_after.replace(hour=0, minute=0, second=0, microsecond=0)
    return twitter_etl.day_of(run.data_interval_start or end - timedelta(days=1), end)


@dag(
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    # X's API knows no earlier day; a run before the start would do nothing and succeed.
    start_date=pendulum.datetime(2010, 11, 6, tz="UTC"),
    catchup=False,
    # Two runs over one day would buy its pages twice.
    max_active_runs=1,
    default_args={
        "owner": "data",
        "retries": 12,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=15),
        "retry_policy": XRetryPolicy(),
        "execution_timeout": timedelta(hours=1),
    },
    on_failure_callback=notify_failure,
    tags=["x", "s3"],
    params=FORM,
    doc_md=__doc__,
)
def twitter() -> None:
    """Wait until the day has come to rest, look the users up, read each one's day, publish."""
    settled = DateTimeSensorAsync(
        task_id="day_has_settled",
        target_time=f"{{{{ {END} + macros.timedelta(minutes=[{SETTLE} | int, 1] | max) }}}}",
        doc_md="Posts may be edited for up to an hour: a day is read 65 minutes after its end (`x_settle_minutes`).",
    )

    @task
    def resolve_users() -> list[dict[str, Any]]:
        from etl import twitter_etl

        # Before a look-up costs anything.
        budget()
        users = twitter_etl.resolve_users(
            client(), bucket(), words(setting("usernames")), day(), switch("strict", "false")
        )
        return [asdict(user) for user in users]

    @task(pool="x_api", map_index_template="{{ task.op_kwargs['user']['username'] }}")
    def fetch_posts(user: dict[str, Any]) -> dict[str, Any]:
        from etl import twitter_etl

        owner = twitter_etl.User(**user)
        return asdict(twitter_etl.extract(client(), bucket(), owner, day(), budget(), switch("expand", "true")))

    @task(outlets=[POSTS])
    def publish(extractions: list[dict[str, Any]]) -> dict[str, Any]:
        from etl import twitter_etl

        found = [
            twitter_etl.Extraction(**{**extraction, "user": twitter_etl.User(**extraction["user"])})
            for extraction in extractions
        ]
        target = bucket()
        formats = words(setting("output_formats", "csv"))
        manifest = twitter_etl.load(target, found, day(), formats, switch("formula_guard", "false"))
        event = twitter_etl.event(target, manifest)
        get_current_context()["outlet_events"][POSTS].extra = event
        return event

    users = resolve_users()
    settled >> users
    publish(fetch_posts.expand(user=users))


twitter()
