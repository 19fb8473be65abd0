"""The two pictures of a report, bar by bar; the checks of its numbers, at their edges."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest

from etl.report import layout, pictures, rates
from etl.report import numbers as numbers_of
from etl.report.combining import Count

DAY = date(2026, 11, 21)
SOUND = {"online": Count(100, {}), "shops": Count(100, {})}


def figures(*rows):
    """Days ago, channel, country and revenue."""
    return numbers_of.table(
        [[DAY - timedelta(days=ago), channel, country, 1, revenue, "now"] for ago, channel, country, revenue in rows]
    )


def line(name, problem=""):
    return numbers_of.Number(name, 1, Decimal(1), None, problem)


def bars(figure):
    """Of each bar of a figure where it begins, how tall it is, and whether it is marked."""
    return [(bar.get_y(), bar.get_height(), bar.get_hatch()) for bar in figure.axes[0].patches]


def test_the_days_are_side_by_side_and_todays_failures_are_marked(drawn):
    today = [(0, "online", "DE", "100"), (0, "shops", "DE", "50")]
    sold = figures(*today, (1, "shops", "AT", "30"), (13, "online", "DE", "7"), (14, "online", "DE", "9"))
    pictures.days(sold, [line("online"), line("shops", "too few")], DAY)
    (figure,) = drawn
    axes = figure.axes[0]
    online, shops = bars(figure)[: layout.DAYS], bars(figure)[layout.DAYS :]
    assert [height for _, height, _ in online] == [7, *[0] * 12, 100]
    assert [height for _, height, _ in shops] == [*[0] * 12, 30, 50]
    # Upon one another, and only the last of the channel that failed is marked.
    assert [bottom for bottom, _, _ in shops] == [7, *[0] * 12, 100]
    assert [mark for _, _, mark in online] == [None] * 14 and [mark for _, _, mark in shops] == [*[None] * 13, "///"]
    assert [tick.get_text() for tick in axes.get_xticklabels()][0::13] == ["08 Nov", "21 Nov"]
    assert list(axes.get_xticks()) == list(range(14))
    assert axes.get_ylim() == (0, 150 + 0.2 * 150) and axes.get_title(loc="left") == "Revenue of the last 14 days, EUR"
    assert [axes.spines[side].get_visible() for side in ("top", "right", "left")] == [False, False, True]


def test_the_countries_are_those_of_the_day(drawn):
    sold = figures(
        (0, "online", "DE", "100"), (0, "online", "AT", "20"), (0, "shops", "AT", "-60"), (1, "shops", "FR", "5")
    )
    pictures.countries(sold, [line("online", "too many"), line("shops")], DAY)
    (figure,) = drawn
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["AT", "DE"]
    assert bars(figure) == [(0, 20, "///"), (0, 100, "///"), (0, -60, None), (100, 0, None)]
    assert axes.get_ylim() == (-60 - 0.05 * 160, 100 + 0.2 * 160)


def test_a_day_without_sales_has_an_axis_all_the_same(drawn):
    pictures.days(figures(), [line("online"), line("shops")], DAY)
    assert drawn[0].axes[0].get_ylim() == (0, 1.2)


@pytest.mark.parametrize(
    ("rows", "refused", "most", "said"),
    [(100, 1, 1, ""), (100, 2, 1, "2 of 100 rows were refused: no id (2)"), (0, 0, 1, ""), (200, 3, 1.5, "")],
)
def test_how_many_rows_may_be_refused(rows, refused, most, said):
    assert numbers_of.refused(Count(rows, {"no id": refused} if refused else {}), most) == said


@pytest.mark.parametrize(
    ("revenue", "past", "said"),
    [
        (500, [100, 100, 100], ""),
        (501, [100, 100, 100], "5.01 times the median of the last 3 days"),
        (20, [100, 100, 100], ""),
        (19, [100, 100, 100], "0.19 times the median of the last 3 days"),
        (9999, [100, 100], ""),
        (9999, [0, 0, 0], ""),
        (-500, [-100, -100, -100], ""),
        (-501, [-100, -100, -100], "5.01 times the median of the last 3 days"),
    ],
)
def test_outliers_against_the_days_before(revenue, past, said):
    assert numbers_of.outlier(Decimal(revenue), [Decimal(each) for each in past]) == said


def test_the_days_before_are_the_seven_before():
    sold = [(ago, channel, "DE", "100") for channel in ("online", "shops") for ago in (6, 7, 8)] + [
        (0, "online", "DE", "700"), (0, "shops", "DE", "700"),
    ]  # fmt: skip
    assert [one.problem for one in numbers_of.numbers(figures(*sold), SOUND, DAY, 1)] == ["", "", ""]
    lines = numbers_of.numbers(figures(*sold, (1, "online", "DE", "100"), (1, "shops", "DE", "90")), SOUND, DAY, 1)
    assert [one.problem for one in lines] == [
        "7.00 times the median of the last 3 days",
        "7.00 times the median of the last 3 days",
        "the number of online and shops failed its check",
    ]
    assert [(one.name, one.sales, one.revenue, one.before) for one in lines] == [
        ("online", 1, 700, 100),
        ("shops", 1, 700, 90),
        ("all", 2, 1400, 190),
    ]
    assert [one.change for one in lines] == ["+600.0 %", "+677.8 %", "+636.8 %"]


def test_without_one_day_before_there_is_no_change():
    lines = numbers_of.numbers(figures((0, "online", "DE", "7"), (1, "online", "DE", "7")), SOUND, DAY, 1)
    assert [(one.before, one.problem, one.change) for one in lines] == [
        (7, "", "+0.0 %"),
        (None, "no sales", ""),
        (None, "the number of shops failed its check", ""),
    ]


@pytest.mark.parametrize(
    ("rate", "exactly"),
    [
        ("1.5", Fraction(3, 2)),
        (rates.LARGEST, Fraction(rates.LARGEST)),
        (rates.LARGEST + 1, None),
        (Decimal(1) / rates.LARGEST, Fraction(1, rates.LARGEST)),
        (0, None),
        (-1, None),
        ("many", None),
        ("NaN", None),
    ],
)
def test_a_rate_is_exact_or_none(rate, exactly):
    assert rates.exact(rate) == exactly
