"""What the shop sells beside the three days: hundreds of valid sales a day, more on weekends and each week."""

from __future__ import annotations

import csv
import io
from datetime import date
from random import Random

from lab.shop import seed

# Monday first.
WEEKDAYS = [0.8, 0.75, 0.85, 1.0, 1.3, 1.5, 1.1]
EACH_WEEK = 1.01
COUNTRIES = ["DE", "DE", "DE", "AT", "FR", "NL"]
SHOPS = [("Köln", "DE"), ("Köln", "DE"), ("Wien", "AT")]
OPEN = range(9, 20)


def _amounts(day: date, usual: int) -> list[str]:
    """Return what each customer pays; the same for the same day."""
    random = Random(f"{day} {usual}")
    count = int(usual * WEEKDAYS[day.weekday()] * EACH_WEEK ** (day.toordinal() % 364 / 7) * random.uniform(0.9, 1.1))
    return [f"{random.lognormvariate(3.4, 0.6):.2f}" for _ in range(count)]


def orders(day: date) -> list[dict[str, str]]:
    """Return rows of the table orders."""
    random = Random(str(day))
    rows = []
    for number, amount in enumerate(_amounts(day, 900), start=1):
        at = f"{day} {random.randrange(24):02}:{random.randrange(60):02}:00"
        row = {"order_id": f"{day:%y%m%d}-T{number:04}", "country": random.choice(COUNTRIES), "currency": "EUR"}
        rows.append({**row, "ordered_at": at, "amount": amount, "status": "paid", "updated_at": at})
    return rows


def _receipts(day: date) -> list[list[str]]:
    random = Random(str(day))
    rows = []
    for number, amount in enumerate(_amounts(day, 700), start=1):
        shop, country = random.choice(SHOPS)
        at = f"{day} {random.choice(OPEN):02}:{random.randrange(60):02}"
        rows.append([f"{shop}-{day:%y%m%d}-T{number:04}", shop, country, at, "EUR", amount])
    return rows


def receipts(day: date) -> bytes:
    """Return the shops' file: what that day's tills wrote, plus these sales in their format."""
    encoding = seed.ENCODINGS[seed.turn(day)]
    text = seed.receipts(day).decode(encoding)
    more = io.StringIO()
    delimiter = csv.Sniffer().sniff(text.splitlines()[0], ";,\t").delimiter
    csv.writer(more, delimiter=delimiter, lineterminator="\n").writerows(_receipts(day))
    return (text.rstrip("\n") + "\n" + more.getvalue()).encode(encoding)


def sales(day: date) -> list[list[str]]:
    """Return what the warehouse has of these sales, with the columns of the contract."""
    online = [[one["order_id"], one["ordered_at"], one["country"], one["amount"]] for one in orders(day)]
    shops = [[sale, at, country, amount] for sale, _, country, at, _, amount in _receipts(day)]
    return [
        [str(day), channel, sale, at, country, "EUR", amount, amount, "paid"]
        for channel, rows in (("online", online), ("shops", shops))
        for sale, at, country, amount in rows
    ]
