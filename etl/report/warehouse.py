"""Each warehouse's statements, in its own SQL: load a day's rows, replace the day with them, sum up.

Days and names of tables may be templates that Airflow fills in. Every DAG parse imports this, so it
is small.
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from etl.contract import Column
from etl.report import layout
from etl.report.contract import SALES

if TYPE_CHECKING:
    from etl.storage import Storage

KEPT, KEY = SALES.names, SALES.key
# If two lines are about one sale, the later one counts.
LINE = Column("line", "integer", "where it stood in its source")
COLUMNS = [*KEPT, LINE.name]
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Warehouse:
    """PostgreSQL. The tables are `sales`, and one for the rows of each run until they are taken over."""

    # The schema of PostgreSQL and Redshift, the dataset of BigQuery; it exists.
    schema: str = "public"
    types: ClassVar[dict[str, str]] = {
        "date": "date",
        "string": "varchar({bytes})",
        "timestamp": "timestamp",
        "decimal": "numeric(18, 2)",
        "integer": "bigint",
    }
    # The tables behind the columns of `sales`.
    table_options: ClassVar[str] = f", primary key ({', '.join(KEY)})"
    after_columns: ClassVar[str] = ""
    now: ClassVar[str] = "current_timestamp"
    # If an order moves between two days, each must see what the other has done.
    lock: ClassVar[str] = "lock table {} in share row exclusive mode"

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.schema):
            raise ValueError(f"report_schema is {self.schema!r}: use letters, digits and _")

    def table(self, name: str = "sales") -> str:
        """Return a table's full name."""
        return f"{self.schema}.{name}"

    def create(self, staging: str) -> list[str]:
        """Return the statements that make `sales`, where it is missing, and an empty staging table."""
        types = {column.name: self.types[column.type].format(bytes=column.bytes) for column in (*SALES.columns, LINE)}
        kept = ", ".join(f"{name} {types[name]} not null" for name in KEPT)
        given = ", ".join(f"{name} {types[name]}" for name in COLUMNS)
        return [
            f"create table if not exists {self.table()} ({kept}{self.table_options}){self.after_columns}",
            f"drop table if exists {self.table(staging)}",
            f"create table {self.table(staging)} ({given})",
        ]

    def publish(self, staging: str, day: str) -> list[str]:
        """Return the statements that replace a day with the staged rows, in one transaction."""
        return [
            self.lock.format(self.table()),
            f"delete from {self.table()} where day = date '{day}'",
            self.moved(staging, day),
            f"insert into {self.table()} ({', '.join(KEPT)}) {self.newest(staging)}",
        ]

    def moved(self, staging: str, day: str) -> str:
        """Return the statement that deletes changed orders from the days they were on before."""
        same = f"select sale_id from {self.table(staging)} where channel = 'online'"
        first, last = (self.shifted(day, days) for days in (-layout.MOVES, layout.MOVES))
        days = f"day between {first} and {last} and day <> date '{day}'"
        return f"delete from {self.table()} where {days} and channel = 'online' and sale_id in ({same})"

    def shifted(self, day: str, days: int) -> str:
        """Return the day `days` later."""
        return f"date '{day}' + ({days})"

    def newest(self, staging: str) -> str:
        """Return the query of the staged rows, with only the last line of each sale."""
        ranked = f"row_number() over (partition by {', '.join(KEY)} order by line desc) as place"
        return (
            f"select {', '.join(KEPT)} from (select {', '.join(COLUMNS)}, {ranked} from {self.table(staging)}) ranked "
            "where place = 1"
        )

    def drop(self, staging: str) -> str:
        """Return the statement that drops the staging table."""
        return f"drop table if exists {self.table(staging)}"

    def figures(self, first: str, last: str) -> str:
        """Return the query of what the report is made from, with the columns of numbers.FIGURES."""
        # The gate refuses a release that no longer loads one of these.
        SALES.read_by("daily_report", "day", "channel", "country", "amount_eur", "status")
        return (
            "select day, channel, country, count(*) as sales, sum(amount_eur) as revenue, "
            f"{self.now} as read_at from {self.table()} "
            f"where day between date '{first}' and date '{last}' and status = 'paid' "
            "group by day, channel, country order by day, channel, country"
        )


@dataclass(frozen=True)
class Redshift(Warehouse):
    """Amazon Redshift, which reads from S3 itself, with a role of its own."""

    # Redshift does not enforce a key: the delete before the insert keeps a sale single.
    table_options: ClassVar[str] = ""
    after_columns: ClassVar[str] = " diststyle auto sortkey (day)"
    # Redshift has current_timestamp only in queries without a table.
    now: ClassVar[str] = "getdate()"
    # Readers wait for it, too.
    lock: ClassVar[str] = "lock {}"

    def copy(self, staging: str, address: str, role: str) -> list[str]:
        """Return the statements that load an object of S3; `role` is an ARN, or `default`."""
        given = "default" if role == "default" else f"'{role}'"
        return [
            # Not truncate, which would commit by itself.
            f"delete from {self.table(staging)}",
            f"copy {self.table(staging)} ({', '.join(COLUMNS)}) from '{address}' iam_role {given} "
            "format as csv gzip ignoreheader 1 timeformat 'auto' dateformat 'auto'",
        ]


@dataclass(frozen=True)
class BigQuery(Warehouse):
    """Google BigQuery."""

    schema: str = "report"
    types: ClassVar[dict[str, str]] = {
        "date": "date",
        "string": "string",
        "timestamp": "timestamp",
        "decimal": "numeric",
        "integer": "int64",
    }
    table_options: ClassVar[str] = ""
    after_columns: ClassVar[str] = " partition by day cluster by channel, country"

    def publish(self, staging: str, day: str) -> list[str]:
        """Return the statement that replaces a day whole by the staged rows, and the one for moved orders."""
        same = " and ".join(f"target.{column} = staged.{column}" for column in KEY)
        values = [column for column in KEPT if column not in KEY]
        return [
            f"merge into {self.table()} target using ({self.newest(staging)}) staged "
            f"on {same} and target.day = date '{day}' "
            f"when matched then update set {', '.join(f'{column} = staged.{column}' for column in values)} "
            f"when not matched by target then insert ({', '.join(KEPT)}) "
            f"values ({', '.join(f'staged.{column}' for column in KEPT)}) "
            f"when not matched by source and target.day = date '{day}' then delete",
            self.moved(staging, day),
        ]

    def shifted(self, day: str, days: int) -> str:
        """Return the day `days` later."""
        return f"date_add(date '{day}', interval ({days}) day)"


WAREHOUSES = {"postgres": Warehouse, "redshift": Redshift, "bigquery": BigQuery}


def copy(connection: Any, warehouse: Warehouse, staging: str, storage: Storage, key: str) -> None:
    """Stream an object into a staging table of PostgreSQL. `connection` is one of psycopg 3."""
    statement = f"copy {warehouse.table(staging)} ({', '.join(COLUMNS)}) from stdin with (format csv, header)"
    with storage.reader(key) as packed, gzip.open(packed) as rows, connection.cursor() as cursor:
        # What an earlier try left.
        cursor.execute(f"truncate {warehouse.table(staging)}")
        with cursor.copy(statement) as target:
            while piece := rows.read(2**16):
                target.write(piece)
    connection.commit()
