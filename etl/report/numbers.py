"""The numbers of a report, each with its checks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from statistics import median
from typing import Any

import pandas as pd

from etl.report.combining import Count
from etl.report.contract import CHANNELS

# What the warehouse is asked for; revenue is in EUR.
FIGURES = ["day", "channel", "country", "sales", "revenue", "read_at"]
# A revenue so many times above or below the median of the week before is more likely wrong than true.
OUTLIER = 5


@dataclass(frozen=True)
class Number:
    """A line of the report; revenue in EUR, `problem` is empty where every check was passed."""

    name: str
    sales: int
    revenue: Decimal
    before: Decimal | None
    problem: str

    @property
    def change(self) -> str:
        """How the revenue differs from the day before."""
        return f"{(self.revenue / self.before - 1) * 100:+.1f} %" if self.before else ""


def table(rows: list[Any]) -> pd.DataFrame:
    """Return the warehouse's answer as a table with the columns of FIGURES, whatever its client made of them."""
    frame = pd.DataFrame([list(row) for row in rows], columns=FIGURES)
    return frame.assign(
        day=[date.fromisoformat(str(day)[:10]) for day in frame.day],
        sales=frame.sales.astype(int),
        revenue=[Decimal(str(revenue)) for revenue in frame.revenue],
        read_at=frame.read_at.astype(str),
    )


def numbers(figures: pd.DataFrame, counts: dict[str, Count], day: date, most_refused_percent: float) -> list[Number]:
    """Return a line for each channel and one for all; `counts` says what became of the rows that were delivered."""
    lines = []
    for channel in CHANNELS:
        own = figures[figures.channel == channel]
        revenues = own.groupby("day").revenue.sum().to_dict()
        revenue = revenues.get(day, Decimal(0))
        count = int(own[own.day == day].sales.sum())
        problems = [
            refused(counts[channel], most_refused_percent),
            "" if count else "no sales",
            outlier(revenue, [revenues[past] for past in revenues if day - timedelta(days=7) <= past < day]),
        ]
        before = revenues.get(day - timedelta(days=1))
        lines.append(Number(channel, count, revenue, before, "; ".join(filter(None, problems))))
    failed = [line.name for line in lines if line.problem]
    problem = f"the number of {' and '.join(failed)} failed its check" if failed else ""
    known = [line.before for line in lines]
    before = None if None in known else sum(known, Decimal(0))
    everything = sum((line.revenue for line in lines), Decimal(0))
    return [*lines, Number("all", sum(line.sales for line in lines), everything, before, problem)]


def refused(count: Count, most_percent: float) -> str:
    """Return what is wrong with the rows of a channel, if more were refused than are tolerated."""
    total = sum(count.refused.values())
    if total * 100 <= count.rows * most_percent:
        return ""
    return f"{total} of {count.rows} rows were refused: {', '.join(f'{why} ({n})' for why, n in count.refused.items())}"


def outlier(revenue: Decimal, past: list[Decimal]) -> str:
    """Return what is strange about a revenue beside those of the days before, of which it takes three."""
    if len(past) < 3 or not (usual := median(past)):
        return ""
    # A week of returns has a median below zero.
    least, most = sorted((usual / OUTLIER, usual * OUTLIER))
    if least <= revenue <= most:
        return ""
    return f"{revenue / usual:.2f} times the median of the last {len(past)} days"
