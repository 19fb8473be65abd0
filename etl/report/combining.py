"""Both sources of a day, cleaned and written as one table."""

from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import dataclass
from datetime import date

import pandas as pd

from etl.contract import ContractError
from etl.report import layout
from etl.report.cleaning import DECIMAL_MARKS, cleaned
from etl.report.contract import SALES
from etl.report.errors import SourceError
from etl.report.sources import pieces
from etl.report.warehouse import COLUMNS
from etl.storage import Storage

# What each source calls them.
ORDERS = {"order_id": "sale_id", "country": "country", "ordered_at": "sold_at", "currency": "currency"}
ORDERS |= {"amount": "amount", "status": "status"}
RECEIPTS = {"receipt": "sale_id", "country": "country", "sold_at": "sold_at", "currency": "currency"}
RECEIPTS |= {"amount": "amount"}


@dataclass
class Count:
    """What became of the rows of one source."""

    rows: int
    refused: dict[str, int]

    @property
    def accepted(self) -> int:
        """The rows that can be right; those that are delivered twice are still among them."""
        return self.rows - sum(self.refused.values())


def combine(storage: Storage, day: date, exchange: dict[str, str], decimal_mark: str = "") -> dict[str, Count]:
    """Clean both sources and write their rows as one table; return what became of each channel's rows.

    Rows that cannot be right are written to an object of their own, each with the reason; both objects replace those
    of an earlier run, when all is read. `decimal_mark` is the shops', `.` or `,`; without it ambiguous amounts are
    refused. At most ROWS_AT_ONCE rows are held, however long the sources are. Raises SourceError, StorageRefused,
    FileNotFoundError where a source is missing, and ContractError where the rows are not as SALES has them.
    """
    if decimal_mark not in DECIMAL_MARKS:
        raise SourceError(f"report_decimal_mark is {decimal_mark!r}: set it to . or , or leave it out")
    marks = {"online": "", "shops": decimal_mark}
    sources = {"online": (layout.orders(day), ORDERS), "shops": (layout.receipts(day), RECEIPTS)}
    counts = {channel: Count(0, {}) for channel in sources}
    with (
        storage.writer(layout.refused(day)) as refused,
        storage.writer(layout.sales(day)) as sales,
        # The same rows give the same bytes: the archive has no name and no time.
        gzip.GzipFile("", "wb", 1, sales, mtime=0) as packed,
    ):
        refused.write(b"channel,line,reason,row\n")
        packed.write((",".join(COLUMNS) + "\n").encode())
        for channel, (key, names) in sources.items():
            reasons: Counter[str] = Counter()
            with storage.reader(key) as stream:
                for rows, broken in pieces(stream, names, key):
                    clean, bad = cleaned(rows, day, channel, exchange, marks[channel])
                    bad = pd.concat([broken, bad]).sort_values("line", kind="stable")
                    counts[channel].rows += len(clean) + len(bad)
                    reasons.update(bad.reason)
                    if problems := SALES.problems(clean[SALES.names], whole=False):
                        raise ContractError(f"rows of {key} break the contract of {SALES.name}: {'; '.join(problems)}")
                    refused.write(_csv(bad.assign(channel=channel)[["channel", "line", "reason", "row"]]))
                    packed.write(_csv(clean))
            counts[channel].refused = dict(sorted(reasons.items()))
    return counts


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, header=False, lineterminator="\n", date_format="%Y-%m-%d %H:%M:%S").encode()
