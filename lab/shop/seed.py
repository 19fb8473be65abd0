"""What the shop sold on a day. Three days are files below days/, and repeat from then on."""

from __future__ import annotations

import csv
import io
from datetime import date, timedelta
from pathlib import Path

DAYS = Path(__file__).parent / "days"
# How much of a currency one euro is.
RATES = {"CHF": "0.945", "GBP": "0.8543", "PLN": "4.2536", "USD": "1.0842"}
PAGES = [["CHF", "GBP"], ["PLN", "USD"]]
# Each day's tills write their own format.
ENCODINGS = {1: "cp1252", 2: "utf-8-sig", 3: "utf-16"}


def turn(day: date) -> int:
    """Return which of the three days a day is like."""
    return day.toordinal() % 3 + 1


def _text(day: date, name: str) -> str:
    return (
        (DAYS / str(turn(day)) / name)
        .read_text()
        .format(
            id=f"{day:%y%m%d}",
            day=day,
            before=day - timedelta(days=1),
            next=day + timedelta(days=1),
            german=f"{day:%d.%m.%Y}",
        )
    )


def orders(day: date) -> list[dict[str, str]]:
    """Return the rows of the table orders whose order was placed on the day; times are in UTC."""
    return list(csv.DictReader(io.StringIO(_text(day, "orders.csv"))))


def receipts(day: date) -> bytes:
    """Return the file that the shops deliver for the day."""
    return _text(day, "receipts.csv").encode(ENCODINGS[turn(day)])


def receipts_key(day: date) -> str:
    """Return where on S3 they deliver it."""
    return f"incoming/report/receipts/dt={day}/receipts.csv"


def rates(day: date, page: int) -> dict:
    """Return a page of the exchange rates of the day."""
    following = f"rates/{day}?page={page + 1}" if page < len(PAGES) else None
    listed = {currency: float(RATES[currency]) for currency in PAGES[page - 1]}
    return {"base": "EUR", "date": str(day), "rates": listed, "next": following}
