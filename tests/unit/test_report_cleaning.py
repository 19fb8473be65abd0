"""Amounts, rates and times: read right, or not at all."""

from datetime import date
from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.report import cleaning, combining

DAY = date(2026, 11, 3)


@pytest.mark.parametrize(
    ("text", "cents"),
    [
        ("1234.5", 123450),
        ("1,234.50", 123450),
        ("1.234,50", 123450),
        ("1'234.50", 123450),
        ("1\u2019234,5", 123450),
        ("1 234 567,89", 123456789),
        ("1\u00a0234", 123400),
        ("1,234", 123400),
        ("1.234", 123400),
        ("-0,5", -50),
        ("+7", 700),
        ("999999999.99", 99999999999),
        ("1234567890", None),
        ("1,234,567.8", 123456780),
        ("1,234.567", None),
        ("1,234,50", None),
        ("1.234.50", None),
        ("1,23,4", None),
        ("0.125", None),
        ("0,999", None),
        ("012,345", None),
        ("12,3456", None),
        ("1.5e3", None),
        ("", None),
        ("nan", None),
        ("٣", None),
        ("5 EUR", None),
    ],
)
def test_amounts_are_read_whatever_groups_their_thousands(text, cents):
    (found,) = cleaning.amounts(pd.Series([text])).tolist()
    assert found == cents or (cents is None and pd.isna(found))


@pytest.mark.parametrize(
    ("text", "mark", "cents"),
    [
        ("1.234", ",", 123400),
        ("1,234", ".", 123400),
        ("12,34", ",", 1234),
        ("12,34", ".", None),
        ("1.234,50", ",", 123450),
        ("1.234,50", ".", None),
        ("0,125", ",", None),
        ("1234.567", ".", None),
    ],
)
def test_the_decimal_mark_may_be_said(text, mark, cents):
    (found,) = cleaning.amounts(pd.Series([text]), mark).tolist()
    assert found == cents or (cents is None and pd.isna(found))


@pytest.mark.parametrize(
    ("amount", "currency", "mark", "reason"),
    [
        ("1.234", "EUR", "", "the amount can be read in two ways"),
        ("-12,345", "EUR", "", "the amount can be read in two ways"),
        ("1.234", "EUR", ",", ""),
        ("1.234", "EUR", ".", "the amount cannot be read"),
        ("12.345", "KWD", ",", "the amount can be read in two ways"),
        ("12.34", "KWD", ".", ""),
        ("1.234.567", "EUR", "", ""),
        ("999999999.99", "XAU", "", "too much in EUR"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(amount, currency, mark, reason):
    row = [2, "a", "DE", "2026-11-03 10:00", currency, amount]
    given = pd.DataFrame([row], columns=["line", *combining.RECEIPTS.values()])
    clean, bad = cleaning.cleaned(given, DAY, "shops", {"EUR": "1", "KWD": "0.33", "XAU": "0.00000000001"}, mark)
    assert bad.reason.tolist() == ([reason] if reason else []) and len(clean) == (not reason)


@given(st.integers(-(10**11) + 1, 10**11 - 1), st.decimals("0.00000001", "999999", places=8))
def test_euros_are_rounded_half_away_from_zero_and_exactly(cents, rate):
    (found,) = cleaning.euros(pd.Series([cents]), pd.Series([Fraction(rate)], dtype=object)).tolist()
    with localcontext(prec=50):
        assert found == int((Decimal(cents) / rate).quantize(Decimal(1), ROUND_HALF_UP))


@given(st.integers(-(10**11) + 1, 10**11 - 1))
def test_an_amount_survives_being_written_and_read(cents):
    (text,) = cleaning.written(pd.Series([cents])).tolist()
    assert Decimal(text) * 100 == cents
    assert cleaning.amounts(pd.Series([text])).tolist() == [cents]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-03T10:00:00Z", "2026-11-03 10:00:00+00:00"),
        ("2026-11-03T01:30:00+02:00", "2026-11-02 23:30:00+00:00"),
        ("2026-11-03 10:00", "2026-11-03 10:00:00+00:00"),
        ("03.11.2026 10:00", "2026-11-03 10:00:00+00:00"),
        ("03.11.2026 10:00:59", "2026-11-03 10:00:59+00:00"),
        ("11/03/2026 10:00", "NaT"),
        ("2026-02-30 10:00", "NaT"),
        ("9999-99-99", "NaT"),
        ("", "NaT"),
    ],
)
def test_times_are_read_as_utc(text, expected):
    assert str(cleaning.times(pd.Series([text, "2026-11-03 10:00"]))[0]) == expected


@pytest.mark.parametrize(("channel", "refused"), [("online", ["blanks around the id"]), ("shops", [])])
def test_blanks_around_an_id_make_no_other_order(channel, refused):
    """Its database sees two; each day would delete the other's."""
    order = {"sale_id": ["A1", "A1 "], "country": "DE", "sold_at": "2026-11-03 10:00", "currency": "EUR", "amount": "1"}
    clean, bad = cleaning.cleaned(pd.DataFrame({**order, "line": [2, 3]}), DAY, channel, {"EUR": "1"})
    assert bad.reason.tolist() == refused and set(clean.sale_id) == {"A1"}
