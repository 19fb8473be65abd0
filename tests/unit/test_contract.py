"""What is promised of rows, and what breaks it."""

from __future__ import annotations

import pandas as pd
import pytest

from etl.contract import Column, Contract, ContractError

TABLE = Contract(
    "sums",
    3,
    ("id",),
    (
        Column("id", "string", "whose", pattern="[a-z]+"),
        Column("kind", "string", "which", values=("old", "new")),
        Column("sum", "decimal", "how much"),
        Column("count", "integer", "how many", least=1),
    ),
)


def frame(**changes):
    columns = {"id": ["a", "b"], "kind": ["old", "new"], "sum": ["1.00", "-2.50"], "count": [1, 2], **changes}
    return pd.DataFrame({name: values for name, values in columns.items() if values})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"id": ["a", "a"]}, "id is there twice: 'a' and 1 more"),
        ({"id": ["a", "B"]}, "id is not of the form [a-z]+: 'B'"),
        # A pattern holds for all of a cell.
        ({"id": ["a", "bB"]}, "id is not of the form [a-z]+: 'bB'"),
        ({"id": ["a", "b\n"]}, "id is not of the form [a-z]+: 'b\\n'"),
        ({"kind": ["old", "else"]}, "kind is none of old, new: 'else'"),
        ({"sum": ["1.00", "2.5"]}, "sum is not of the form -?\\d{1,16}\\.\\d\\d: '2.5'"),
        ({"sum": [1.5, 2.5]}, "sum is of another type: '1.5' and 1 more"),
        ({"count": [0, 2]}, "count is below 1: '0'"),
        ({"count": [0, -1], "id": ["a", "b"]}, "count is below 1: '0' and 1 more"),
        (
            {"count": [0, -1, -2], "id": ["a", "b", "c"], "kind": ["new"] * 3, "sum": ["1.00"] * 3},
            "count is below 1: '0' and 2 more",
        ),
        ({"kind": ["old", "x" * 99]}, f"kind is none of old, new: '{'x' * 60}'"),
        ({"id": ["a", None]}, "id has no value: 'nan'"),
        ({"count": None}, "the column count is missing"),
        ({"more": [1, 2]}, "the column more is not in the contract"),
    ],
)
def test_each_way_to_break_a_contract_is_named_with_the_first_value(changes, problem):
    assert problem in TABLE.problems(frame(**changes))


def test_good_rows_break_nothing_nor_does_an_empty_table():
    assert TABLE.problems(frame()) == [] and TABLE.problems(frame().head(0)) == []
    assert TABLE.problems(frame(id=["a", "a"]), whole=False) == []
    assert TABLE.problems(frame()[["kind", "id", "sum", "count"]])


def test_who_reads_a_column_that_is_gone_is_named_with_it():
    assert TABLE.read_by("a_dag", "sum", "id") == ["sum", "id"]
    with pytest.raises(ContractError, match=r"^a_dag reads total of sums, whose columns are id, kind, sum, count:"):
        TABLE.read_by("a_dag", "id", "total")


def test_problems_come_in_the_order_of_the_columns():
    said = TABLE.problems(frame(id=["A", "b"], sum=["x", "1.00"], count=[0, 1]))
    assert [problem.split()[0] for problem in said] == ["id", "sum", "count"]


def test_the_allowed_values_are_readable():
    assert [column.range() for column in TABLE.columns] == ["`[a-z]+`", "`old`, `new`", "", "1 or more"]
    assert "| `count` | integer | 1 or more | how many |" in TABLE.markdown()


def test_a_table_without_rows_has_its_types():
    typed = TABLE.typed(pd.DataFrame(columns=TABLE.names))
    assert typed.dtypes.astype(str).to_dict() == TABLE.typed(frame()).dtypes.astype(str).to_dict()
    assert str(typed.dtypes["count"]) == "int64" and TABLE.problems(typed) == []
