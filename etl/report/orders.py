"""The orders of a day, out of the shop's PostgreSQL."""

from __future__ import annotations

from datetime import date
from typing import Any

from etl.report import layout
from etl.storage import Storage

# The database's own text of each value: errors are found later, row by row. An order has one day: the newest of its
# rows decides, whatever day the order was on before, even if that row is then refused. Numeric money gets two
# decimals.
QUERY = """
select order_id::text, country::text, to_char(ordered_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS') as ordered_at,
  currency::text, status::text, case when pg_typeof(amount)::text in ('text', 'character varying', 'character', 'money')
  then amount::text else round(amount::text::numeric, 2)::text end as amount
from (
  select *, row_number() over (
    partition by order_id order by updated_at desc nulls last, ordered_at desc, status, amount::text) as place
  from orders where order_id in (select order_id from orders where {of_the_day})
  union all
  select *, 1 from orders where order_id is null and {of_the_day}
) as versions
where place = 1 and {of_the_day}
order by order_id, status, amount::text
"""


def query(day: date) -> str:
    """Return the query of a day's orders."""
    midnight = f"timestamptz '{day} 00:00+00'"
    return QUERY.format(of_the_day=f"ordered_at >= {midnight} and ordered_at < {midnight} + interval '1 day'")


def extract(connection: Any, storage: Storage, day: date) -> None:
    """Stream a day's orders into their object. `connection` is one of psycopg 3. Raises StorageRefused."""
    statement = f"copy ({query(day)}) to stdout with (format csv, header)"
    with storage.writer(layout.orders(day)) as target, connection.cursor() as cursor, cursor.copy(statement) as rows:
        for piece in rows:
            target.write(piece)
