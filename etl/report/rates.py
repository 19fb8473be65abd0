"""Exchange rates, as the API has them."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from etl.report.errors import NoAnswer, SourceError

# A bank holiday has the rates of the last day before it.
OLDEST_RATES = timedelta(days=7)
LARGEST = 10**12


def next_page(text: str) -> str | None:
    """Return where the next page of rates is, the API's `next`; nothing on the last one.

    Raises SourceError where it is not relative to the address of the connection.
    """
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    following = answer.get("next") if isinstance(answer, dict) else None
    if following and (not isinstance(following, str) or ":" in following.partition("?")[0] or following[0] in "/?"):
        raise SourceError(
            f"the next page of the exchange rates is {following!r}: it must be relative to the connection"
        )
    return following


def rates(texts: list[str], day: date) -> dict[str, str]:
    """Return how much of each currency one euro was on a day, as decimal text, from the pages of the API.

    A page is `{"base": "EUR", "date": "2026-11-02", "rates": {"USD": 1.0842}, "next": …}`. Raises SourceError,
    NoAnswer.
    """
    found = {"EUR": "1"}
    for number, text in enumerate(texts, start=1):
        for currency, rate in _page(number, text, day).items():
            if not exact(rate):
                raise SourceError(f"page {number} of the exchange rates says {rate!r} for {currency}: no rate")
            found[currency] = str(rate)
    return found


def _page(number: int, text: str, day: date) -> dict[str, str]:
    try:
        page = json.loads(text, parse_float=str, parse_int=str)
        base, stated, listed = page["base"], date.fromisoformat(page["date"]), dict(page["rates"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NoAnswer(
            f"page {number} of the exchange rates is no JSON with base, date and rates: it begins with "
            f"{text[:60]!r}. See what the connection exchange_rates leads to"
        ) from None
    if base != "EUR":
        raise SourceError(
            f"the exchange rates are for {base}, not for EUR: correct airflow_variables.report_rates_endpoint"
        )
    if not timedelta(0) <= day - stated <= OLDEST_RATES:
        raise SourceError(
            f"the exchange rates are of {stated}, not of {day}: correct airflow_variables.report_rates_endpoint"
        )
    return listed


def exact(rate: object) -> Fraction | None:
    """Return a rate as it is written, in every digit; nothing for what is none."""
    try:
        found = Fraction(Decimal(str(rate)))
    except (InvalidOperation, ValueError, OverflowError):
        return None
    return found if Fraction(1, LARGEST) <= found <= LARGEST else None
