"""The sales of a day: the orders of a database, the receipts of the shops and the exchange rates, made one table."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from etl import report_layout
from etl.storage import Storage
from etl.warehouse import COLUMNS

CHANNELS = ["online", "shops"]
# What each source calls them.
ORDERS = {"order_id": "sale_id", "country": "country", "ordered_at": "sold_at", "currency": "currency"}
ORDERS |= {"amount": "amount", "status": "status"}
RECEIPTS = {"receipt": "sale_id", "country": "country", "sold_at": "sold_at", "currency": "currency"}
RECEIPTS |= {"amount": "amount"}
STATUSES = ["paid", "cancelled"]
ROWS_AT_ONCE = 50_000
LONGEST_LINE = 100_000
# Rates come with at most six decimals, amounts with two: both are counted in whole units, never in floats.
RATE_UNITS = 10**6
# Money has two decimals, so that a mark before three digits groups thousands: 1,234 and 1.234 are the same. A number
# has one such mark, and another before its decimals.
GROUPED = r"[0-9]{1,3}(?P<mark>[.,'\u2019 \u00a0\u202f])[0-9]{3}(?:(?P=mark)[0-9]{3})*"
AMOUNT = rf"^(?P<sign>[-+]?)(?P<whole>{GROUPED}|[0-9]{{1,9}})(?:(?!(?P=mark))[.,](?P<cents>[0-9]{{1,2}}))?$"
# Rates of a bank holiday are those of the last day before it.
OLDEST_RATES = timedelta(days=7)
TIMES = ["ISO8601", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S"]


class SourceError(Exception):
    """A source delivered what cannot be read; the message says what, where, and what to do."""


@dataclass
class Count:
    """What became of the rows of one source."""

    rows: int
    refused: dict[str, int]

    @property
    def accepted(self) -> int:
        """The rows that can be right; those that are delivered twice are still among them."""
        return self.rows - sum(self.refused.values())


# A byte that is not UTF-8 is taken for the Western encoding of Windows, in which old tills write.
codecs.register_error(
    "western", lambda error: (error.object[error.start : error.end].decode("cp1252", "replace"), error.end)
)


def next_page(text: str) -> str | None:
    """Return where the next page of rates is, which the API says as `next`; nothing on the last one.

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

    A page is `{"base": "EUR", "date": "2026-11-02", "rates": {"USD": 1.0842}, "next": …}`. Raises SourceError.
    """
    found = {"EUR": "1"}
    for number, text in enumerate(texts, start=1):
        try:
            page = json.loads(text, parse_float=str, parse_int=str)
            base, stated, listed = page["base"], date.fromisoformat(page["date"]), dict(page["rates"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SourceError(
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
        for currency, rate in listed.items():
            if not _units(rate):
                raise SourceError(f"page {number} of the exchange rates says {rate!r} for {currency}: no rate")
            found[currency] = str(rate)
    return found


def _units(rate: Any) -> int:
    try:
        units = int((Decimal(str(rate)) * RATE_UNITS).to_integral_value())
    except (InvalidOperation, ValueError, OverflowError):
        return 0
    return units if 0 < units < 10**13 else 0


def combine(storage: Storage, day: date, exchange: dict[str, str]) -> dict[str, Count]:
    """Clean both sources and write their rows as one table; return what became of each channel's rows.

    Rows that cannot be right are written to an object of their own, each with the reason; both objects replace those
    of an earlier run, when all is read. However long the sources are, ROWS_AT_ONCE rows are held. Raises SourceError,
    StorageRefused, and FileNotFoundError where a source is missing.
    """
    sources = {"online": (report_layout.orders(day), ORDERS), "shops": (report_layout.receipts(day), RECEIPTS)}
    counts = {channel: Count(0, {}) for channel in sources}
    with (
        storage.writer(report_layout.refused(day)) as refused,
        storage.writer(report_layout.sales(day)) as sales,
        # The same rows are the same bytes: no name and no time stand in the archive.
        gzip.GzipFile("", "wb", 1, sales, mtime=0) as packed,
    ):
        refused.write(b"channel,line,reason,row\n")
        packed.write((",".join(COLUMNS) + "\n").encode())
        for channel, (key, names) in sources.items():
            reasons: Counter[str] = Counter()
            with storage.reader(key) as stream:
                for rows, broken in pieces(stream, names, key):
                    clean, bad = cleaned(rows, day, channel, exchange)
                    bad = pd.concat([broken, bad]).sort_values("line", kind="stable")
                    counts[channel].rows += len(clean) + len(bad)
                    reasons.update(bad.reason)
                    refused.write(_csv(bad.assign(channel=channel)[["channel", "line", "reason", "row"]]))
                    packed.write(_csv(clean))
            counts[channel].refused = dict(sorted(reasons.items()))
    return counts


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, header=False, lineterminator="\n", float_format="%.2f").encode()


def pieces(stream: BinaryIO, names: dict[str, str], key: str) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Yield a CSV as pairs of tables of up to ROWS_AT_ONCE rows: cells as text, and rows that do not fit the header.

    The first has the columns `line` and those of `names.values()`, the second `line`, `reason` and `row`. The
    encoding (UTF-8, UTF-16 with its mark, or Windows' Western one) and the delimiter are found out. Raises SourceError.
    """
    start = stream.read(2)
    stream.seek(0)
    wide = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding, errors = ("utf-16", "strict") if wide else ("utf-8-sig", "western")
    text = io.TextIOWrapper(stream, encoding, errors=errors, newline="")
    place = 1
    try:
        header, delimiter = _header(text.readline(LONGEST_LINE), names, key)
        reader = csv.reader(_lines(text), delimiter=delimiter, strict=True)
        wanted = [header.index(name) for name in names]
        rows: list[list[Any]] = []
        broken: list[tuple[int, str, str]] = []
        for cells in reader:
            if len(cells) == len(header):
                rows.append([place + 1, *(cells[index] for index in wanted)])
            elif cells:
                reason = f"{len(cells)} cells instead of {len(header)}"
                broken.append((place + 1, reason, json.dumps(cells, ensure_ascii=False)))
            place = reader.line_num + 1
            if len(rows) + len(broken) >= ROWS_AT_ONCE:
                yield _tables(rows, broken, names)
                rows, broken = [], []
        yield _tables(rows, broken, names)
    except (csv.Error, UnicodeError) as error:
        raise SourceError(
            f"{key} cannot be read after line {place}: {error}. Deliver it anew and clear the task"
        ) from None


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise csv.Error(f"a line has {LONGEST_LINE} characters or more")
        yield line


def _header(line: str, names: dict[str, str], key: str) -> tuple[list[str], str]:
    """Return the column names of the first line, and what stands between them."""
    found: list[str] = []
    for delimiter in ",;\t":
        found = [name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter), [])]
        if set(names) <= set(found):
            return found, delimiter
    raise SourceError(
        f"the first line of {key} must name the columns {', '.join(names)}; it begins with {line[:80]!r}. "
        "Deliver it anew and clear the task"
    )


def _tables(
    rows: list[list[Any]], broken: list[tuple[int, str, str]], names: dict[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    return (
        pd.DataFrame(rows, columns=["line", *names.values()]),
        pd.DataFrame(broken, columns=["line", "reason", "row"]),
    )


def cleaned(rows: pd.DataFrame, day: date, channel: str, exchange: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows that can be right, with COLUMNS, and the others with `line`, `reason` and `row`.

    `rows` has the text columns of ORDERS or RECEIPTS, and `line`; `exchange` says how much of a currency a euro is.
    """
    text = rows.drop(columns="line").apply(lambda cells: cells.str.strip())
    sold_at = times(text.sold_at)
    cents = amounts(text.amount)
    currency, country = text.currency.str.upper(), text.country.str.upper()
    units = currency.map({name: _units(rate) for name, rate in exchange.items()}).fillna(0).astype("int64")
    status = text.status.str.lower() if "status" in text else pd.Series("paid", index=text.index)
    reasons = {
        "no id": ~text.sale_id.str.fullmatch(r"[^\x00-\x1f]{1,64}"),
        "the time cannot be read": sold_at.isna(),
        "of another day": sold_at.dt.date != day,
        "the country is not two letters": ~country.str.fullmatch("[A-Z]{2}"),
        "the amount cannot be read": cents.isna(),
        "the currency is not three letters": ~currency.str.fullmatch("[A-Z]{3}"),
        "no exchange rate": units == 0,
        "the status is not known": ~status.isin(STATUSES),
    }
    reason = pd.Series(np.select(list(reasons.values()), list(reasons), ""), index=rows.index)
    good = reason == ""
    clean = pd.DataFrame(
        {
            "day": str(day),
            "channel": channel,
            "sale_id": text.sale_id,
            "sold_at": sold_at.dt.strftime("%Y-%m-%d %H:%M:%S"),
            "country": country,
            "currency": currency,
            "amount": cents.fillna(0) / 100,
            "amount_eur": euros(cents.fillna(0).astype("int64"), units.where(good, 1)) / 100,
            "status": status,
            "line": rows.line,
        }
    )[good]
    bad = rows[~good]
    raw = [json.dumps(cells, ensure_ascii=False) for cells in bad.drop(columns="line").to_numpy().tolist()]
    return clean, pd.DataFrame({"line": bad.line, "reason": reason[~good], "row": raw})


def times(text: pd.Series) -> pd.Series:
    """Return the times in UTC; one without a zone is taken for UTC, one that cannot be read is NaT."""
    found = pd.Series(pd.NaT, index=text.index, dtype="datetime64[us, UTC]")
    for form in TIMES:
        missing = found.isna()
        if missing.any():
            found[missing] = pd.to_datetime(text[missing], format=form, errors="coerce", utc=True)
    return found


def amounts(text: pd.Series) -> pd.Series:
    """Return amounts in whole cents, as floats: below 10^11, so exactly; NaN for what is no amount of money."""
    parts = text.str.extract(AMOUNT)
    whole = pd.to_numeric(parts.whole.str.replace(r"\D", "", regex=True))
    cents = pd.to_numeric(parts.cents.str.ljust(2, "0")).fillna(0)
    sign = np.where(parts.sign == "-", -1, 1)
    return (sign * (whole * 100 + cents)).where(whole < 10**9)


def euros(cents: pd.Series, units: pd.Series) -> pd.Series:
    """Return euro cents, each rounded half away from zero, by integers alone."""
    return np.sign(cents) * ((2 * cents.abs() * RATE_UNITS + units) // (2 * units))
