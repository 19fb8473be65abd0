"""The statements that warehouses are given: run where a database is at hand, read where none is."""

import csv
import gzip
import io
import re

import duckdb
import pytest

from etl.report import warehouse
from etl.report.warehouse import COLUMNS, KEPT, BigQuery, Redshift, Warehouse

DAY = "2026-11-03"


def sale(identifier: str, line: int = 2, day: str = DAY, status: str = "paid", amount: str = "10.50") -> list:
    return [day, "online", identifier, f"{day} 10:00:00", "DE", "EUR", amount, amount, status, line]


@pytest.fixture(params=[Warehouse, Redshift, BigQuery])
def database(request):
    """A database in which each day's rows are loaded as the DAG does, and published as each warehouse is told to."""

    class Database:
        connection = duckdb.connect()

        def load(self, *rows: list, day: str = DAY) -> None:
            tables = Warehouse("main")
            for statement in tables.create("staging_a"):
                self.connection.execute(statement)
            places = ", ".join("?" * len(COLUMNS))
            for row in rows:
                self.connection.execute(f"insert into {tables.table('staging_a')} values ({places})", row)
            self.connection.begin()
            for statement in request.param("main").publish("staging_a", day):
                if not statement.startswith("lock "):
                    self.connection.execute(statement)
            self.connection.commit()
            self.connection.execute(tables.drop("staging_a"))

        def sales(self) -> list[tuple]:
            return self.connection.execute("select sale_id, amount::text from main.sales order by 1").fetchall()

    return Database()


def test_the_later_of_two_lines_of_one_sale_wins(database):
    database.load(sale("a", 2, amount="1.00"), sale("a", 9, amount="2.00"), sale("b"))
    assert database.sales() == [("a", "2.00"), ("b", "10.50")]


def test_a_day_that_is_loaded_again_is_replaced_whole_and_no_other(database):
    database.load(sale("before", day="2026-11-02"), day="2026-11-02")
    for _ in range(2):
        database.load(sale("a"), sale("b"))
        assert [identifier for identifier, _ in database.sales()] == ["a", "b", "before"]
    database.load(sale("b", amount="7.00"), sale("late"))
    assert database.sales() == [("b", "7.00"), ("before", "10.50"), ("late", "10.50")]
    database.load()
    assert database.sales() == [("before", "10.50")]


def test_figures_are_the_paid_sales_of_the_days(database):
    database.load(sale("before", day="2026-11-02"), day="2026-11-02")
    database.load(sale("a"), sale("b"), sale("c", status="cancelled"))
    tables = Warehouse("main")
    figures = database.connection.execute(tables.figures("2026-11-03", DAY)).fetchall()
    assert [(str(day), *rest[:3], str(rest[3])) for day, *rest, _ in figures] == [(DAY, "online", "DE", 2, "21.00")]
    assert len(database.connection.execute(tables.figures("2026-11-01", DAY)).fetchall()) == 2


def test_an_order_that_moves_to_another_day_is_gone_from_the_one_before(database):
    database.load(sale("a", day="2026-11-02"), sale("b", day="2026-11-02"), day="2026-11-02")
    database.load(sale("a", amount="11.00"))
    assert database.sales() == [("a", "11.00"), ("b", "10.50")]


def test_redshift_reads_the_object_itself_with_its_role():
    tables = Redshift("reports")
    emptied, copied = tables.copy("staging_a", "s3://bucket/sales.csv.gz", "arn:aws:iam::123456789012:role/redshift")
    assert emptied == "delete from reports.staging_a"
    assert copied == (
        f"copy reports.staging_a ({', '.join(COLUMNS)}) from 's3://bucket/sales.csv.gz' "
        "iam_role 'arn:aws:iam::123456789012:role/redshift' "
        "format as csv gzip ignoreheader 1 timeformat 'auto' dateformat 'auto'"
    )
    assert " iam_role default " in tables.copy("staging_a", "s3://bucket/sales.csv.gz", "default")[1]
    (made, *_) = tables.create("staging_a")
    assert made.startswith(
        "create table if not exists reports.sales (day date not null, channel varchar(16) not null, "
    )
    assert made.endswith(") diststyle auto sortkey (day)")
    locked, deleted, moved, inserted = tables.publish("staging_a", DAY)
    assert locked == "lock reports.sales"
    assert Warehouse().publish("staging_a", DAY)[0] == "lock table public.sales in share row exclusive mode"
    days = f"day between date '{DAY}' + (-31) and date '{DAY}' + (31) and day <> date '{DAY}'"
    assert moved.startswith(f"delete from reports.sales where {days} and channel = 'online' and sale_id in (select ")
    assert "getdate() as read_at" in tables.figures(DAY, DAY)
    assert deleted == f"delete from reports.sales where day = date '{DAY}'"
    assert inserted == (
        f"insert into reports.sales ({', '.join(KEPT)}) select {', '.join(KEPT)} from (select {', '.join(COLUMNS)}, "
        "row_number() over (partition by day, channel, sale_id order by line desc) as place from reports.staging_a) "
        "ranked where place = 1"
    )


def test_bigquery_replaces_a_day_in_one_statement():
    merge, moved = BigQuery("report").publish("staging_a", DAY)
    assert moved.startswith("delete from report.sales where ")
    assert merge.startswith("merge into report.sales target using (select ")
    assert f"and target.day = date '{DAY}' when matched then update set sold_at = staged.sold_at, " in merge
    assert merge.endswith(f"when not matched by source and target.day = date '{DAY}' then delete")
    (made, *_) = BigQuery().create("staging_a")
    assert made.startswith("create table if not exists report.sales (") and "amount_eur numeric not null" in made
    assert made.endswith(") partition by day cluster by channel, country")


def test_a_schema_is_a_name():
    with pytest.raises(ValueError, match="report_schema is 'a; drop'"):
        Warehouse("a; drop")


class Cursor:
    """As much of a cursor of psycopg 3 as a copy needs."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.received = b""

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, statement: str) -> None:
        self.said.append(statement)

    def copy(self, statement: str):
        self.said.append(statement)
        return self

    def write(self, piece: bytes) -> None:
        self.received += piece


def test_rows_are_streamed_into_an_empty_table(storage):
    text = io.StringIO()
    csv.writer(text).writerows([COLUMNS, sale("a")])
    storage.put("sales.csv.gz", gzip.compress(text.getvalue().encode()))
    cursor, ended = Cursor(), []

    class Connection:
        def cursor(self):
            return cursor

        def commit(self) -> None:
            ended.append(True)

    warehouse.copy(Connection(), Warehouse(), "staging_a", storage, "sales.csv.gz")
    copied = f"copy public.staging_a ({', '.join(COLUMNS)}) from stdin with (format csv, header)"
    assert cursor.said == ["truncate public.staging_a", copied]
    assert cursor.received == text.getvalue().encode() and ended == [True]


# https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical#reserved_keywords
RESERVED = """all and any array as asc assert_rows_modified at between by case cast collate contains create cross
cube current default define desc distinct else end enum escape except exclude exists extract false
fetch following for from full group grouping groups hash having if ignore in inner intersect
interval into is join lateral left like limit lookup merge natural new no not null nulls of on or
order outer over partition preceding proto qualify range recursive respect right rollup rows select
set some struct tablesample then to treat true unbounded union unnest using when where window with
within"""


def test_no_name_is_a_word_that_bigquery_keeps_for_itself():
    """The emulator takes them all."""
    tables = BigQuery()
    merge, _ = tables.publish("staging_a", DAY)
    aliases = re.findall(r"(?:staging_a\)? |as |\) |sales )([a-z_]+)(?= (?:using|on|where|from)|$)", merge)
    assert {"target", "staged", "place", "ranked"} <= set(aliases)
    assert not {*aliases, *COLUMNS, "sales", "revenue"} & set(RESERVED.split())


def test_templates_are_left_as_they_are():
    for kind in warehouse.WAREHOUSES.values():
        published = " ".join(kind().publish("{{ staging(dag_run) }}", "{{ day(dag_run) }}"))
        assert "{{ staging(dag_run) }}" in published and "date '{{ day(dag_run) }}'" in published
