"""What X has charged this month and today, by user, as the DAG twitter_summary writes it down.

It prints for the doctor a JSON object: `bucket`, empty where the environment names none, and of the bill `as_of`,
`month`, `today` and `users`, where there is one. It imports nothing of a release: whoever may run it has secrets that a
DAG's author has not.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any


def spending(bill: str, today: date) -> dict[str, Any]:
    """Return the sums of a month's bill in USD: `month`, `today`, and `users` with those of the month, most first."""
    by_day: Counter[str] = Counter()
    by_user: Counter[str] = Counter()
    for row in csv.DictReader(io.StringIO(bill)):
        by_day[row["bought_on"]] += Decimal(row["usd"])
        by_user[row["username"] or row["user_id"]] += Decimal(row["usd"])
    users = {name: str(usd) for name, usd in by_user.most_common()}
    return {"month": str(by_day.total()), "today": str(by_day[str(today)]), "users": users}


def main(today: date | None = None) -> int:
    """Print what the bucket of the variable x_bucket says; return the exit code."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, today = os.environ.get("AIRFLOW_VAR_X_BUCKET", ""), today or datetime.now(UTC).date()
    key = f"curated/x/bill/month={today:%Y-%m}.csv"
    said: dict[str, Any] = {"bucket": bucket}
    try:
        s3 = boto3.client("s3")
        # By listing: a role that may list a prefix is refused if it asks for an object that is not there.
        if bucket and s3.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)["KeyCount"]:
            bill = s3.get_object(Bucket=bucket, Key=key)
            said |= {"as_of": f"{bill['LastModified']:%F %H:%M}", **spending(bill["Body"].read().decode(), today)}
    except (BotoCoreError, ClientError) as error:
        print(f"s3://{bucket}/{key}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
