"""A CSV as shops send it: encodings, delimiters, quotes, and broken rows."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import pandas as pd

from etl.report.errors import SourceError

ROWS_AT_ONCE = 50_000
LONGEST_LINE = 100_000
# A cell with more line breaks has an unclosed quote.
LONGEST_CELL_LINES = 1000
UNQUOTED = 'a quote is not closed: write "" for a quote in a cell'

# A byte that is not UTF-8 is read as Windows' Western encoding, which old tills use.
codecs.register_error(
    "western", lambda error: (error.object[error.start : error.end].decode("cp1252", "replace"), error.end)
)

Broken = tuple[int, str, str]


def pieces(stream: BinaryIO, names: dict[str, str], key: str) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Yield a CSV as pairs of tables of up to ROWS_AT_ONCE rows: cells as text, and lines that are not rows.

    The first has the columns `line` and those of `names.values()`, the second `line`, `reason` and `row`. Each line
    of the file is in one of them, except empty ones. The encoding (UTF-8, UTF-16 with its mark, or Windows' Western
    one) and the delimiter are detected. Raises SourceError.
    """
    start = stream.read(2)
    stream.seek(0)
    wide = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding, errors = ("utf-16", "strict") if wide else ("utf-8-sig", "western")
    text = io.TextIOWrapper(stream, encoding, errors=errors, newline="")
    lines = _Lines(text)
    try:
        header, delimiter = _header(text.readline(LONGEST_LINE), names, key)
        wanted = [header.index(name) for name in names]
        rows: list[list[Any]] = []
        broken: list[Broken] = []
        for number, cells, problems in _records(lines, len(header), delimiter):
            broken += problems
            if cells:
                rows.append([number, *(cells[index] for index in wanted)])
            if len(rows) + len(broken) >= ROWS_AT_ONCE:
                yield _tables(rows, broken, names)
                rows, broken = [], []
        yield _tables(rows, broken, names)
    except (csv.Error, UnicodeError) as error:
        raise SourceError(
            f"{key} cannot be read after line {lines.before}: {error}. Deliver it anew and clear the run"
        ) from None


class _Lines:
    """The lines of a file after its header, and those consumed by the current record."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.before = 1
        self.taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(LONGEST_LINE):
            self.taken.append(line)
            if len(line) == LONGEST_LINE:
                raise csv.Error(f"a line has {LONGEST_LINE} characters or more")
            if len(self.taken) > LONGEST_CELL_LINES:
                raise csv.Error(f"{UNQUOTED}, nor in the {LONGEST_CELL_LINES} lines behind")
            yield line

    def record(self) -> tuple[int, list[str]]:
        """Return the number of the first line of the record that was read, and its lines."""
        first, taken = self.before + 1, self.taken
        self.before, self.taken = self.before + len(taken), []
        return first, taken


def _records(lines: _Lines, width: int, delimiter: str) -> Iterator[tuple[int, list[str], list[Broken]]]:
    """Yield each record: its line and cells, or why its lines are none."""
    reader = csv.reader(iter(lines), delimiter=delimiter, strict=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if len(lines.taken) > LONGEST_CELL_LINES or any(len(line) == LONGEST_LINE for line in lines.taken):
                raise
            first, taken = lines.record()
            reason = UNQUOTED if "unexpected end" in str(error) else f"a quote within a cell: {error}"
            yield first, [], _each(first, taken, reason)
            continue
        first, taken = lines.record()
        if sum(line.count(delimiter) >= width - 1 for line in taken) > 1:
            # Two stray quotes, with whole rows in between, look like one cell.
            yield first, [], _each(first, taken, f"{UNQUOTED} (lines {first} to {first + len(taken) - 1})")
        elif len(cells) == width:
            yield first, cells, []
        elif cells:
            row = json.dumps(cells, ensure_ascii=False)
            yield first, [], [(first, f"{len(cells)} cells instead of {width}", row)]


def _each(first: int, lines: list[str], reason: str) -> list[Broken]:
    """Return every line by itself."""
    found = [(first + place, line.rstrip("\r\n")) for place, line in enumerate(lines)]
    return [(number, reason, json.dumps([line], ensure_ascii=False)) for number, line in found if line]


def _header(line: str, names: dict[str, str], key: str) -> tuple[list[str], str]:
    """Return the column names of the first line, and the separator."""
    found: list[str] = []
    for delimiter in ",;\t":
        found = [name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter), [])]
        if set(names) <= set(found):
            return found, delimiter
    raise SourceError(
        f"the first line of {key} must name the columns {', '.join(names)}; it begins with {line[:80]!r}. "
        "Deliver it anew and clear the run"
    )


def _tables(rows: list[list[Any]], broken: list[Broken], names: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    return (
        pd.DataFrame(rows, columns=["line", *names.values()]),
        pd.DataFrame(broken, columns=["line", "reason", "row"]),
    )
