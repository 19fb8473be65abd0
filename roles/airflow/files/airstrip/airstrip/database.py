"""The state of the metadata database, without the seconds that importing Airflow takes.

database.py state USERNAME  prints a JSON object: migration_needed; administrator_current, which says
                            whether the user exists with the password of the secrets; and pools with their slots
database.py behind          prints the version tables whose revision is another than this Airflow wants
database.py wait            waits until the database answers at the revision that this Airflow needs
database.py tables          prints the tables that `airflow db clean` may clean, with commas between
database.py read            reads with the Fernet key what Airflow encrypted, from standard input, and prints nothing

It is run as a file, with whatever virtualenv is live, so that it is the same for all of them.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import psycopg2

# Each Alembic version table and the module that names the revision it should hold.
TABLES = {
    "alembic_version": "airflow/utils/db.py",
    "alembic_version_fab": "airflow/providers/fab/auth_manager/models/db.py",
}
POOLS = "SELECT to_regclass('slot_pool')"
WAIT_SECONDS = 60


def credential(name: str) -> str:
    """Return a secret of this unit."""
    return Path(os.environ["CREDENTIALS_DIRECTORY"], name).read_text().strip()


def connect() -> Any:
    """Connect as Airflow does."""
    return psycopg2.connect(credential("database_url").replace("+psycopg2", "", 1), connect_timeout=5)


def scalar(connection: Any, query: str, *values: Any) -> Any:
    """Return the one value of a query, or nothing."""
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        row = cursor.fetchone()
    return row[0] if row else None


def rows(connection: Any, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def wanted(module: str) -> str:
    """Return the newest revision of the module's _REVISION_HEADS_MAP."""
    tree = ast.parse(Path(sysconfig.get_path("purelib"), module).read_text())
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "_REVISION_HEADS_MAP":
            return list(ast.literal_eval(node.value).values())[-1]
    raise SystemExit(f"{module} has no _REVISION_HEADS_MAP: this version of Airflow is not supported here")


def behind(connection: Any) -> list[str]:
    """Return the version tables that are missing or hold another revision than this Airflow wants."""
    return [
        table
        for table, module in TABLES.items()
        if not scalar(connection, "SELECT to_regclass(%s)", table)
        or scalar(connection, f"SELECT version_num FROM {table}") != wanted(module)
    ]


def state(username: str) -> None:
    """Print what site.yml has to do."""
    # Whoever only waits or connects need not import it.
    from werkzeug.security import check_password_hash

    with connect() as connection:
        stored = scalar(connection, "SELECT to_regclass('ab_user')") and scalar(
            connection, "SELECT password FROM ab_user WHERE username = %s", username
        )
        current = bool(stored) and check_password_hash(stored, credential("admin_password"))
        pools = rows(connection, "SELECT pool, slots FROM slot_pool") if scalar(connection, POOLS) else []
        found = {"migration_needed": bool(behind(connection)), "administrator_current": current, "pools": dict(pools)}
        print(json.dumps(found))


def say_behind() -> None:
    """Print each table whose revision is another than this Airflow wants."""
    with connect() as connection:
        print("\n".join(behind(connection)))


def wait() -> None:
    """Wait for the database. Raises SystemExit when it has not come in time."""
    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            with connect() as connection:
                tables = behind(connection)
            problem = tables and f"{', '.join(tables)} is not at this Airflow's revision: run sudo airflow db migrate"
        except psycopg2.OperationalError as error:
            problem = f"the database does not answer: {error}"
        if not problem:
            return
        if time.monotonic() > end:
            raise SystemExit(problem)
        time.sleep(1)


def say_tables() -> None:
    """Print the tables that can be cleaned: not `dag`, which holds what is still there (apache/airflow #71864)."""
    from airflow.utils.db_cleanup import config_dict

    print(",".join(sorted(set(config_dict) - {"dag"})))


def read() -> None:
    """Read what Airflow encrypted. Raises SystemExit where the key is another."""
    from cryptography.fernet import Fernet, InvalidToken, MultiFernet

    try:
        MultiFernet([Fernet(key) for key in credential("fernet_key").split(",")]).decrypt(sys.stdin.read())
    except InvalidToken:
        raise SystemExit("another key encrypted this") from None


if __name__ == "__main__":
    programs = {"state": state, "wait": wait, "behind": say_behind, "tables": say_tables, "read": read}
    programs[sys.argv[1]](*sys.argv[2:])
