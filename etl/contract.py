"""What a pipeline guarantees of its rows: their columns, types, ranges and key.

Standard library alone: DAG files, which are parsed again and again, declare here what they read. So the gate refuses a
release in which a reader's column is no longer published. pandera, which takes a second to import, checks the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from etl.errors import PermanentError

if TYPE_CHECKING:
    import pandas as pd

# How pandas holds each type, and what its text looks like where that is text: money never passes through a float.
TYPES = {
    "string": ("str", ""),
    "date": ("str", r"\d{4}-\d\d-\d\d"),
    "decimal": ("str", r"-?\d{1,16}\.\d\d"),
    "integer": ("int64", ""),
    "timestamp": ("datetime64[us, UTC]", ""),
}
WORDS = {
    "column_in_dataframe": "is missing",
    "column_in_schema": "is not in the contract",
    "column_ordered": "is in another position",
    "not_nullable": "has no value",
    "multiple_fields_uniqueness": "is there twice",
}


class ContractError(PermanentError):
    """A column is read or written that the contract does not have."""


@dataclass(frozen=True)
class Column:
    """A column, which has a value in each row; `pattern`, `values` and `least` say which."""

    name: str
    type: str
    meaning: str
    pattern: str = ""
    values: tuple[str, ...] = ()
    least: int | None = None
    # A string's maximum size in UTF-8, for warehouses that need it.
    bytes: int = 256

    def range(self) -> str:
        """Describe the allowed values."""
        said = ", ".join(f"`{value}`" for value in self.values) or (f"`{self.pattern}`" if self.pattern else "")
        return said if self.least is None else f"{self.least} or more"


@dataclass(frozen=True)
class Contract:
    """The columns of a table, in their order; `key` is unique. Raise `version` with each change."""

    name: str
    version: int
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [column.name for column in self.columns]

    def read_by(self, reader: str, *names: str) -> list[str]:
        """Return the columns that somebody reads. Raises ContractError, which names both, for one that is not there."""
        if lost := [name for name in names if name not in self.names]:
            raise ContractError(
                f"{reader} reads {', '.join(lost)} of {self.name}, whose columns are {', '.join(self.names)}: "
                f"keep what is read, or change {reader} first"
            )
        return list(names)

    def typed(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return a table whose columns have their types, also where it has no rows."""
        return frame.astype({column.name: TYPES[column.type][0] for column in self.columns})

    def problems(self, frame: pd.DataFrame, whole: bool = True) -> list[str]:
        """Return how a table breaks the contract, a line a column; a part of a table may repeat a key."""
        from pandera.errors import SchemaErrors

        try:
            _schema(self, whole).validate(frame, lazy=True)
        except SchemaErrors as error:
            found = error.failure_cases.fillna({"column": ""}).groupby(["column", "check"], sort=False)
            return [_sentence(column, check, cases.failure_case.tolist()) for (column, check), cases in found]
        return []

    def markdown(self) -> str:
        """Return the contract as people read it."""
        rows = [f"| `{one.name}` | {one.type} | {one.range()} | {one.meaning} |" for one in self.columns]
        head = f"**The contract of `{self.name}`**, version {self.version}: no value is missing, {' + '.join(self.key)}"
        return "\n".join([f"{head} is there once.", "", "| column | type | values | |", "|---|---|---|---|", *rows, ""])


@cache
def _schema(contract: Contract, whole: bool) -> Any:
    import pandera.pandas as pa

    columns = {}
    for column in contract.columns:
        dtype, form = TYPES[column.type]
        checks = []
        if pattern := column.pattern or form:
            checks.append(pa.Check.str_matches(rf"(?:{pattern})\Z", error=f"is not of the form {pattern}"))
        if column.values:
            checks.append(pa.Check.isin(column.values, error=f"is none of {', '.join(column.values)}"))
        if column.least is not None:
            checks.append(pa.Check.ge(column.least, error=f"is below {column.least}"))
        columns[column.name] = pa.Column(dtype, checks)
    return pa.DataFrameSchema(columns, strict=True, ordered=True, unique=list(contract.key) if whole else None)


def _sentence(column: str, check: str, cases: list[Any]) -> str:
    """Return what is wrong, with the first of the values."""
    more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
    if not column:
        return f"the column {cases[0]}{more} {WORDS.get(check, check)}"
    what = WORDS.get(check) or ("is of another type" if check.startswith("dtype(") else check)
    return f"{column} {what}: {str(cases[0])[:60]!r}{more}"
