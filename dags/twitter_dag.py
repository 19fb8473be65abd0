"""### Posts of X users, one UTC day a run

Looks the users up, reads each one's day in a task of its own, and publishes one CSV a user below
`s3://<x_bucket>/curated/x/posts/dt=<day>/`, the manifest last. The asset `x_posts` then has an event with the
rows, the cost and the manifest's SHA-256.

**Again?** Clear or run a day as often as you like: pages that were bought are kept below `raw/x/posts/` and
never requested again. A run for other users adds them to the day and leaves the rest alone. A rate limit shows as
*up for reschedule* until X's window ends; the task then resumes after its last page, without using a retry. To buy a
day again, delete `raw/x/posts/dt=<day>/` first.

**Somebody is missing?** A post that lacks something goes to `quarantine/x/posts/`, and so does a user whose posts fail
the checks; all others are published. The manifest and a notice say who is missing and why. Once the cause is fixed,
clear the run: nothing is bought again.

**Stopped by the budget, a cap or missing credits?** Raise `x_max_usd` (or buy credits), then clear the failed tasks.

**Older days:** *Trigger → Backfill*. X shows only a user's newest 3,200 posts.

Each field of the trigger form applies to one run; empty means the Airflow variable of that name with prefix `x_`.
Anyone who can trigger a run can lower its budget; only the administrator can raise it.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import CronDataIntervalTimetable, Param, dag, task

from airstrip import x
from airstrip.notices import notify_failure
from airstrip.retries import EtlRetryPolicy
from etl.x.contract import POSTS

# A run without a logical date is about the day before it.
END = "(dag_run.data_interval_end or dag_run.run_after.replace(hour=0, minute=0, second=0, microsecond=0))"
SETTLE = "var.value.get('x_settle_minutes', 65)"
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
        None, type=["null", "integer"], minimum=15, description="Posts that the day may buy, up to x_max_posts."
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


@dag(
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    # X's API has no earlier days; a run before the start would do nothing and succeed.
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
        "retry_policy": EtlRetryPolicy(),
        "execution_timeout": timedelta(hours=1),
    },
    on_failure_callback=notify_failure,
    tags=["x", "s3"],
    params=FORM,
    doc_md=f"{__doc__}\n{POSTS.markdown()}",
)
def twitter() -> None:
    """Wait until the day's posts are final, look up the users, read each one's day, publish."""
    settled = DateTimeSensorAsync(
        task_id="day_has_settled",
        target_time=f"{{{{ {END} + macros.timedelta(minutes=[{SETTLE} | int, 1] | max) }}}}",
        doc_md="Posts may be edited for up to an hour: a day is read 65 minutes after its end (`x_settle_minutes`).",
    )

    # Two users at once: the pool is theirs.
    fetch = task(pool="x_api", map_index_template="{{ task.op_kwargs['user']['username'] }}")(x.fetch_posts)
    users = task(x.resolve_users)()
    settled >> users
    task(outlets=[x.POSTS])(x.publish)(fetch.expand(user=users))


twitter()
