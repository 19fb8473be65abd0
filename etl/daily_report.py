"""The daily business report: numbers with their checks, as HTML with two pictures and as text."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from etl import report_layout
from etl.sales import CHANNELS, Count
from etl.storage import Storage

# What the warehouse is asked for; revenue is in EUR.
FIGURES = ["day", "channel", "country", "sales", "revenue"]
# A revenue so many times above or below the median of the week before is more likely wrong than true.
OUTLIER = 5
COLOURS = {"online": "#1d6fa5", "shops": "#d9822b"}
FAILED = "#b3261e"


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
    if len(past) < 3 or not (usual := median(past)) or usual / OUTLIER <= revenue <= usual * OUTLIER:
        return ""
    return f"{revenue / usual:.2f} times the median of the last {len(past)} days"


def render(
    storage: Storage, day: date, rows: list[Any], counts: dict[str, Count], most_refused_percent: float
) -> dict[str, Any]:
    """Write the report of a day, and return its mail: `subject`, `html`, `text`, `pictures` (addresses) and `sha256`.

    The HTML of the mail names its pictures as parts of the mail; the one that is written holds them.
    """
    figures = table(rows)
    lines = numbers(figures, counts, day, most_refused_percent)
    failed = sum(bool(line.problem) for line in lines)
    subject = f"Daily report {day}" + (f": {failed} of {len(lines)} numbers failed their check" if failed else "")
    text = plain(subject, lines)
    # Of the numbers, not of the pictures: another version of the plotting library is no news.
    sha256 = hashlib.sha256((text + figures.to_csv(index=False)).encode()).hexdigest()
    # Named by what they show: a mail that waits for its approval keeps its own.
    pictures = {
        f"days-{sha256[:8]}.png": days(figures, lines, day),
        f"countries-{sha256[:8]}.png": countries(figures, lines, day),
    }
    written = [storage.put(f"{report_layout.report(day)}/{name}", content) for name, content in pictures.items()]
    alone = {name: f"data:image/png;base64,{base64.b64encode(content).decode()}" for name, content in pictures.items()}
    storage.put(f"{report_layout.report(day)}/report.txt", text.encode())
    storage.put(f"{report_layout.report(day)}/report.html", page(subject, lines, alone).encode())
    _note(storage, day, newest=sha256)
    return {
        "subject": subject,
        "html": page(subject, lines, {name: f"cid:{name}" for name in pictures}),
        "text": text,
        "pictures": written,
        "sha256": sha256,
    }


def is_newest(storage: Storage, day: date, sha256: str) -> bool:
    """Return whether no other report of the day was made since."""
    return _notes(storage, day).get("newest") == sha256


def was_mailed(storage: Storage, day: date, sha256: str, to: str) -> bool:
    """Return whether this very report of the day is what these people were mailed last."""
    return _notes(storage, day).get("mailed", {}).get(to) == sha256


def note_mail(storage: Storage, day: date, sha256: str, to: str) -> None:
    """Note what was mailed about the day."""
    _note(storage, day, mailed={**_notes(storage, day).get("mailed", {}), to: sha256})


def _notes(storage: Storage, day: date) -> dict[str, Any]:
    # Asked by a listing: a role that may list a prefix is refused where it asks for what is not there.
    key = f"{report_layout.report(day)}/notes.json"
    return json.loads(storage.get(key)) if key in storage.keys(f"{report_layout.report(day)}/") else {}


def _note(storage: Storage, day: date, **values: Any) -> None:
    notes = {**_notes(storage, day), **values}
    storage.put(f"{report_layout.report(day)}/notes.json", json.dumps(notes, indent=2).encode())


def page(subject: str, lines: list[Number], pictures: dict[str, str]) -> str:
    """Return the report as HTML; `pictures` says where each lies."""
    template = Path(__file__).with_name("daily_report.html").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(subject=subject, lines=lines, pictures=pictures)


def plain(subject: str, lines: list[Number]) -> str:
    """Return the report as text."""
    shown = [subject, "", f"{'':8}{'sales':>10}{'revenue EUR':>18}{'day before':>12}"]
    for line in lines:
        shown.append(f"{line.name:8}{line.sales:>10,}{line.revenue:>18,.2f}{line.change:>12}")
        if line.problem:
            shown.append(f"  CHECK FAILED, do not rely on this number: {line.problem}")
    return "\n".join([*shown, ""])


def days(figures: pd.DataFrame, lines: list[Number], day: date) -> bytes:
    """Return a PNG of 960 x 400 pixels: the revenue of each of the last days, by channel."""
    span = [day - timedelta(days=past) for past in reversed(range(report_layout.DAYS))]
    figure, axes = _canvas(f"Revenue of the last {report_layout.DAYS} days, EUR")
    bars = _stack(axes, figures, "day", span)
    for channel, own in bars.items():
        _mark(own[-1:], channel, lines)
    axes.set_xticks(range(report_layout.DAYS), [f"{one:%d %b}" for one in span], rotation=45, ha="right")
    return _png(figure)


def countries(figures: pd.DataFrame, lines: list[Number], day: date) -> bytes:
    """Return a PNG of 960 x 400 pixels: the revenue of the day in each country, by channel."""
    today = figures[figures.day == day]
    names = sorted(today.country.unique())
    figure, axes = _canvas(f"Revenue of {day} by country, EUR")
    for channel, own in _stack(axes, today, "country", names).items():
        _mark(own, channel, lines)
    axes.set_xticks(range(len(names)), names)
    return _png(figure)


def _stack(axes: Any, figures: pd.DataFrame, column: str, places: list[Any]) -> dict[str, list[Any]]:
    """Draw a bar for each place, channel upon channel; what was given back hangs below zero. Return the bars."""
    above, below = pd.Series(0.0, index=places), pd.Series(0.0, index=places)
    bars = {}
    for channel in CHANNELS:
        own = figures[figures.channel == channel].groupby(column).revenue.sum().astype(float)
        own = own.reindex(places, fill_value=0.0)
        bottom = above.where(own >= 0, below)
        drawn = axes.bar(range(len(places)), own, bottom=bottom, color=COLOURS[channel], label=channel)
        bars[channel] = list(drawn)
        above, below = above + own.clip(lower=0), below + own.clip(upper=0)
    lowest, highest = min([0.0, *below]), max([1.0, *above])
    axes.set_ylim(lowest - 0.05 * (highest - lowest) if lowest else 0, highest + 0.2 * (highest - lowest))
    axes.axhline(0, color="#1c1c1c", linewidth=0.8)
    axes.legend(frameon=False, loc="upper left", ncols=len(CHANNELS))
    return bars


def _canvas(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(9.6, 4.0), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    return figure, axes


def _mark(bars: list[Any], channel: str, lines: list[Number]) -> None:
    if any(line.problem for line in lines if line.name == channel):
        for bar in bars:
            bar.set(hatch="///", edgecolor=FAILED, linewidth=1.5)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
