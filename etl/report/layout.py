"""Where the objects of the business report are, and how far back it looks.

A day may be a template that Airflow fills in. Every DAG parse imports this, so it is small.
"""

from __future__ import annotations

from datetime import date

# The days that the report shows, its own among them.
DAYS = 14
# How many days an order may move and still be counted once.
MOVES = 31


def orders(day: date | str) -> str:
    """The object that the orders of a day are extracted to."""
    return f"raw/report/orders/dt={day}/orders.csv"


def receipts(day: date | str) -> str:
    """The object in which the shops deliver a day."""
    return f"incoming/report/receipts/dt={day}/receipts.csv"


def sales(day: date | str) -> str:
    """The object that the clean rows of a day are written to, before they are loaded."""
    return f"curated/report/sales/dt={day}/sales.csv.gz"


def refused(day: date | str) -> str:
    """The object with the rows that were refused, each with the reason."""
    return f"quarantine/report/sales/dt={day}/refused.csv"


def report(day: date | str) -> str:
    """The folder of a day's report."""
    return f"curated/report/daily/dt={day}"


NOTES = "curated/report/notes/"


def notes(day: date | str) -> str:
    """The folder of what is noted of a day."""
    return f"{NOTES}dt={day}"
