"""The two pictures of a report."""

from __future__ import annotations

import io
from datetime import date, timedelta
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from etl.report import layout
from etl.report.contract import CHANNELS
from etl.report.numbers import Number

COLOURS = {"online": "#1d6fa5", "shops": "#d9822b"}
FAILED = "#b3261e"


def days(figures: pd.DataFrame, lines: list[Number], day: date) -> bytes:
    """Return a PNG of 960 x 400 pixels: the revenue of each of the last days, by channel."""
    span = [day - timedelta(days=past) for past in reversed(range(layout.DAYS))]
    figure, axes = _canvas(f"Revenue of the last {layout.DAYS} days, EUR")
    bars = _stack(axes, figures, "day", span)
    for channel, own in bars.items():
        _mark(own[-1:], channel, lines)
    axes.set_xticks(range(layout.DAYS), [f"{one:%d %b}" for one in span], rotation=45, ha="right")
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
    """Draw a bar for each place, channels stacked; returns are below zero. Return the bars."""
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
