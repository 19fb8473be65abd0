"""The tasks of the DAG `twitter`, and what they take from Airflow: variables, the trigger form, `x_api`, the day.

`etl` knows no Airflow, and is imported where a task needs it: a DAG file must be read in a moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import Any

from airflow.sdk import Asset, Connection, Variable, get_current_context
from airflow.sdk.exceptions import AirflowNotFoundException

from airstrip.notices import notify_missing
from airstrip.retries import coming_back

POSTS = Asset("x_posts")


def setting(name: str, default: Any = "") -> Any:
    """Return the field of the trigger form, else the Airflow variable, else the default."""
    given = _form().get(name)
    return Variable.get(f"x_{name}", default=default) if given in (None, "", []) else given


def switch(name: str, default: bool) -> bool:
    """Return a setting that is on or off."""
    return str(setting(name, default)).lower() in ("true", "yes", "on", "1")


def words(name: str, default: str = "") -> list[str]:
    """Return a setting that is a list, or a text with commas."""
    value = setting(name, default)
    return [word.strip() for word in (value.split(",") if isinstance(value, str) else value) if word.strip()]


def client() -> Any:
    """Return the X API client of the connection x_api."""
    from etl import twitter_etl

    try:
        connection = Connection.get("x_api")
    except AirflowNotFoundException:
        raise twitter_etl.XError(
            "there is no connection x_api: set airflow_connections.x_api and run playbooks/site.yml"
        ) from None
    # An extra that still sets X's dialect is not refused: it is detected.
    extra = {name: value for name, value in connection.extra_dejson.items() if name != "dialect"}
    try:
        keys = twitter_etl.Keys(connection.password or "", **extra)
    except TypeError as error:
        raise twitter_etl.XError(f"the extra of the connection x_api has a key that is not known: {error}") from None
    return twitter_etl.Client(keys, connection.host or twitter_etl.BASE_URL)


def bucket() -> Any:
    """Return the storage of the variable x_bucket."""
    from etl import storage, twitter_etl

    name = setting("bucket")
    if not name:
        raise twitter_etl.XError("x_bucket is not set: set airflow_variables.x_bucket and run playbooks/site.yml")
    return storage.Storage(f"s3://{name}")


def budget() -> Any:
    """Return what the run's day may buy: what the variables allow, or less."""
    from etl import twitter_etl

    most = twitter_etl.Budget.of(Variable.get("x_max_posts", default=None), Variable.get("x_max_usd", default=None))
    return most.lowered(_form().get("max_posts"), _form().get("max_usd"))


def day() -> date:
    """Return the run's day; one without an interval is about the day before it."""
    from etl import twitter_etl

    run = get_current_context()["dag_run"]
    end: datetime = run.data_interval_end or run.run_after.replace(hour=0, minute=0, second=0, microsecond=0)
    return twitter_etl.day_of(run.data_interval_start or end - timedelta(days=1), end)


def resolve_users() -> list[dict[str, Any]]:
    """Look the users up; return each with a status."""
    from etl import twitter_etl

    # Before a look-up costs anything.
    budget()
    with coming_back():
        users = twitter_etl.resolve_users(client(), bucket(), words("usernames"), day(), switch("strict", False))
    return [asdict(user) for user in users]


def fetch_posts(user: dict[str, Any]) -> dict[str, Any]:
    """Read one user's day; return what it consists of."""
    from etl import twitter_etl

    owner, expand = twitter_etl.User(**user), switch("expand", True)
    with coming_back():
        return asdict(twitter_etl.extract(client(), bucket(), owner, day(), budget(), expand))


def publish(extractions: list[dict[str, Any]]) -> dict[str, Any]:
    """Publish the day, tell who is missing, and return what the asset's event says."""
    from etl import twitter_etl

    found = [twitter_etl.Extraction(**{**one, "user": twitter_etl.User(**one["user"])}) for one in extractions]
    target, guard = bucket(), switch("formula_guard", False)
    manifest = twitter_etl.publish(target, found, day(), words("output_formats", "csv"), guard)
    event = twitter_etl.event(target, manifest)
    context = get_current_context()
    context["outlet_events"][POSTS].extra = event
    notify_missing(context, event["missing"])
    return event


def _form() -> Mapping[str, Any]:
    """Return the fields of the DAG's trigger form; Airflow accepts any other key with a run, which is ignored."""
    context = get_current_context()
    return {name: value for name, value in context["params"].items() if name in context["dag"].params}
