"""The X (Twitter) pipeline: look users up, read each one's UTC day, make it rows, publish CSV. See `etl/x`.

`python -m etl.twitter_etl --help` runs it without Airflow.
"""

from etl.x.budget import Budget
from etl.x.client import BASE_URL, Client, Keys
from etl.x.days import day_of, window
from etl.x.errors import XError
from etl.x.extract import Extraction, extract
from etl.x.manifest import event
from etl.x.publish import publish, transform
from etl.x.users import User, resolve_users

__all__ = [
    "BASE_URL",
    "Budget",
    "Client",
    "Extraction",
    "Keys",
    "User",
    "XError",
    "day_of",
    "event",
    "extract",
    "publish",
    "resolve_users",
    "transform",
    "window",
]

if __name__ == "__main__":
    from etl.x.command import main

    main()
