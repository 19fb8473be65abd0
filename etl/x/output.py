"""Clean rows as CSV and as Parquet."""

from __future__ import annotations

import csv
import io

import pandas as pd

from etl.x.contract import POSTS
from etl.x.raw import TIME

# What a spreadsheet takes for the start of a formula; the last four are the first four in full width.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def to_csv(frame: pd.DataFrame, formula_guard: bool = False) -> bytes:
    """Return the frame as UTF-8 CSV: all quoted, lines end with \\n, a header even for no rows.

    `formula_guard` puts ' before a cell that a spreadsheet would run; the text then differs from what was said.
    """
    frame = frame.assign(**{name: frame[name].dt.strftime(TIME) for name in ("created_at", "fetched_at")})
    if formula_guard:
        guarded = {name: frame[name].map(_guard) for name in ("username", "text", "lang")}
        frame = frame.assign(**guarded)
    buffer = io.StringIO(newline="")
    frame.to_csv(buffer, index=False, quoting=csv.QUOTE_ALL, lineterminator="\n")
    return buffer.getvalue().encode()


def _guard(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def to_parquet(frame: pd.DataFrame) -> bytes:
    """Return the frame as Parquet, times in UTC. Raises ModuleNotFoundError without pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Athena reads milliseconds.
    types = {"string": pa.string(), "integer": pa.int64(), "timestamp": pa.timestamp("ms", "UTC")}
    schema = pa.schema([(column.name, types[column.type]) for column in POSTS.columns])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False), buffer, compression="zstd")
    return buffer.getvalue()
