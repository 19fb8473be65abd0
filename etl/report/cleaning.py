"""Turn raw rows into sales; invalid ones are refused with the reason."""

from __future__ import annotations

import json
from datetime import date
from fractions import Fraction

import numpy as np
import pandas as pd

from etl.report.contract import SALES, STATUSES
from etl.report.rates import exact

PATTERNS = {column.name: column.pattern for column in SALES.columns}
GROUP = ".,'\u2019 \u00a0\u202f"
# One mark before three digits alone, which may group thousands or begin decimals.
LONE = r"^[-+]?[0-9]{1,3}[.,][0-9]{3}$"
# A lone group of them is no amount of money in hundredths.
THREE_DECIMALS = ["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"]
TIMES = ["ISO8601", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S"]
DECIMAL_MARKS = ["", ".", ","]
# What the warehouses hold: numeric(18, 2).
MOST_CENTS = 10**18


def cleaned(
    rows: pd.DataFrame, day: date, channel: str, exchange: dict[str, str], decimal_mark: str = ""
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows that can be right, as SALES and `line`, and the others as `line`, `reason` and `row`.

    `rows` has the text columns of ORDERS or RECEIPTS, and `line`; `exchange` says how much of a currency a euro is.
    Amounts are text with two decimals, so that they never pass through a float.
    """
    text = rows.drop(columns="line").apply(lambda cells: cells.str.strip())
    read = pd.DataFrame(
        {
            "line": rows.line,
            "sale_id": text.sale_id,
            "sold_at": times(text.sold_at),
            "country": text.country.str.upper(),
            "currency": text.currency.str.upper(),
            "status": text.status.str.lower() if "status" in text else "paid",
        }
    )
    read = read.join(money(text.amount, read.currency, exchange, decimal_mark))
    reason = refusals(read, day)
    if channel == "online":
        # To their database these are different orders.
        reason = reason.mask((reason == "") & (rows.sale_id != text.sale_id), "blanks around the id")
    good = read[reason == ""]
    money_of = {"amount": written(good.cents), "amount_eur": written(good.euros)}
    clean = good.assign(day=str(day), channel=channel, **money_of)
    return SALES.typed(clean[[*SALES.names, "line"]]), refused(rows[reason != ""], reason[reason != ""])


def refusals(read: pd.DataFrame, day: date) -> pd.Series:
    """Return why each row cannot be right; an empty text where it can."""
    reasons = {
        "no id": ~read.sale_id.str.fullmatch(PATTERNS["sale_id"]),
        "the time cannot be read": read.sold_at.isna(),
        "of another day": read.sold_at.dt.date != day,
        "the country is not two letters": ~read.country.str.fullmatch(PATTERNS["country"]),
        "the amount can be read in two ways": read.lone,
        "the amount cannot be read": read.cents.isna(),
        "the currency is not three letters": ~read.currency.str.fullmatch(PATTERNS["currency"]),
        "no exchange rate": read.rate.isna(),
        "too much in EUR": read.euros.abs() >= MOST_CENTS,
        "the status is not known": ~read.status.isin(STATUSES),
    }
    return pd.Series(np.select(list(reasons.values()), list(reasons), ""), index=read.index)


def money(text: pd.Series, currency: pd.Series, exchange: dict[str, str], decimal_mark: str) -> pd.DataFrame:
    """Return amounts as `cents` and `euros` (cents, too), their `rate`, and whether they are `lone`."""
    lone = text.str.fullmatch(LONE) & ((decimal_mark == "") | currency.isin(THREE_DECIMALS))
    cents = amounts(text, decimal_mark)
    rate = currency.map({name: exact(rate) for name, rate in exchange.items()})
    known = cents.notna() & rate.notna()
    in_euros = euros(cents[known], rate[known]).reindex(text.index)
    return pd.DataFrame({"lone": lone, "cents": cents, "rate": rate, "euros": in_euros})


def refused(rows: pd.DataFrame, reason: pd.Series) -> pd.DataFrame:
    """Return rows with `line`, `reason` and `row`, their cells as JSON."""
    raw = [json.dumps(cells, ensure_ascii=False) for cells in rows.drop(columns="line").to_numpy().tolist()]
    return pd.DataFrame({"line": rows.line, "reason": reason, "row": raw})


def times(text: pd.Series) -> pd.Series:
    """Return the times in UTC; one without a zone is taken for UTC, one that cannot be read is NaT."""
    found = pd.Series(pd.NaT, index=text.index, dtype="datetime64[us, UTC]")
    for form in TIMES:
        missing = found.isna()
        if missing.any():
            found[missing] = pd.to_datetime(text[missing], format=form, errors="coerce", utc=True)
    return found


def amounts(text: pd.Series, decimal_mark: str = "") -> pd.Series:
    """Return amounts in whole cents, as floats: below 10^11, so exactly; NaN for what is no amount of money.

    A number has one mark that groups its thousands, and another before its decimals. Without a `decimal_mark` either
    of `.` and `,` may be it, and a lone mark before three digits groups.
    """
    marks, groups = decimal_mark or ".,", "".join(mark for mark in GROUP if mark != decimal_mark)
    grouped = rf"[0-9]{{1,3}}(?P<mark>[{groups}])[0-9]{{3}}(?:(?P=mark)[0-9]{{3}})*"
    decimals = rf"(?:(?!(?P=mark))[{marks}](?P<cents>[0-9]{{1,2}}))?"
    parts = text.str.extract(rf"^(?P<sign>[-+]?)(?P<whole>{grouped}|[0-9]{{1,9}}){decimals}$")
    whole = pd.to_numeric(parts.whole.str.replace(r"\D", "", regex=True))
    # 0.125 does not group thousands.
    whole = whole.mask(parts.mark.notna() & parts.whole.str.startswith("0"))
    cents = pd.to_numeric(parts.cents.str.ljust(2, "0")).fillna(0)
    sign = np.where(parts.sign == "-", -1, 1)
    return (sign * (whole * 100 + cents)).where(whole < 10**9)


def euros(cents: pd.Series, rate: pd.Series) -> pd.Series:
    """Return euro cents as ints, each rounded half away from zero and in no float; `rate` is of Fractions."""
    return pd.Series(list(map(_euros, cents, rate)), index=cents.index, dtype=object)


def _euros(cents: float, rate: Fraction) -> int:
    size = (2 * abs(int(cents)) * rate.denominator + rate.numerator) // (2 * rate.numerator)
    return -size if cents < 0 else size


def written(cents: pd.Series) -> pd.Series:
    """Return whole cents as text with two decimals."""
    return cents.map(lambda one: f"{'-' if one < 0 else ''}{abs(int(one)) // 100}.{abs(int(one)) % 100:02}").astype(
        "str"
    )
