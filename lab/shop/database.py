"""The shop's database: Debian's PostgreSQL on the lab's own address, with the table orders."""

from __future__ import annotations

import csv
import io
import os
import pwd
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from etl.report.contract import SALES
from etl.report.warehouse import Warehouse
from lab import services
from lab.run import run, start, wait_for
from lab.settings import ORDERS_PORT, Lab, LabError
from lab.shop import seed, trade

READER = "report"
AS_POSTGRES = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
COLUMNS = ["order_id", "country", "ordered_at", "currency", "amount", "status", "updated_at"]
# Days with orders.
PAST_DAYS = 120


def folder(lab: Lab) -> Path:
    return lab.state / "orders"


def program(name: str) -> str:
    """Return a program of the newest PostgreSQL that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    if not found:
        raise LabError("PostgreSQL is missing: run `make setup`")
    return str(found[-1])


def _ask(lab: Lab, tool: str, *arguments: str, stdin: str | None = None) -> str:
    """Run one of PostgreSQL's own clients as the database's owner."""
    address = [f"--host={folder(lab)}", f"--port={ORDERS_PORT}", "--username=postgres"]
    return run(*AS_POSTGRES, program(tool), *address, *arguments, stdin=stdin)


def psql(lab: Lab, statement: str) -> str:
    """Run statements as the database's owner, and return what they say."""
    options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]
    return _ask(lab, "psql", *options, "--dbname=orders", stdin=statement)


def up(lab: Lab) -> None:
    """Start the server, and create its table if missing."""
    data, user = folder(lab) / "data", pwd.getpwnam("postgres")
    if not (data / "PG_VERSION").exists():
        folder(lab).mkdir(exist_ok=True)
        for name in ("services.pem", "services.key"):
            shutil.copy(lab.certificates / name, folder(lab))
        for path in (folder(lab), *folder(lab).iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)
        (folder(lab) / "services.key").chmod(0o600)
        run(*AS_POSTGRES, program("initdb"), "--auth=trust", "--encoding=UTF8", "--no-sync", f"--pgdata={data}")
        (data / "pg_hba.conf").write_text("local all postgres trust\nhostssl orders all all scram-sha-256\n")
    settings = {
        "listen_addresses": lab.gateway,
        "unix_socket_directories": folder(lab),
        "ssl": "on",
        "ssl_cert_file": folder(lab) / "services.pem",
        "ssl_key_file": folder(lab) / "services.key",
        "timezone": "UTC",
        # All of its data can be recreated.
        "fsync": "off",
        "shared_buffers": "16MB",
    }
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    pid_file = folder(lab) / "process.pid"
    start(pid_file, [*AS_POSTGRES, program("postgres"), "-D", str(data), "-p", str(ORDERS_PORT), *words])

    def answers() -> bool:
        try:
            _ask(lab, "pg_isready")
        except LabError:
            return False
        return True

    wait_for("the orders' database", answers, 60, pid_file.with_suffix(".log"))
    _fill(lab)


def _fill(lab: Lab) -> None:
    if "orders|" not in _ask(lab, "psql", "--list", "--tuples-only", "--no-align"):
        _ask(lab, "createdb", "orders")
    today = datetime.now(UTC).date()
    rows = [row for past in range(-2, PAST_DAYS) for row in seed.orders(today - timedelta(days=past))]
    psql(
        lab,
        f"""
        create table if not exists orders (order_id text, country text, ordered_at timestamptz not null, currency text,
          amount text, status text, updated_at timestamptz);
        do $$ begin create role {READER} login; exception when duplicate_object then null; end $$;
        alter role {READER} password '{services.shop.orders_password(lab)}';
        grant select on orders to {READER};
        begin;
        delete from orders;
        copy orders ({", ".join(COLUMNS)}) from stdin with (format csv);
{table(rows)}\\.
        commit;
        """.replace("\n        ", "\n"),
    )


def table(rows: list[dict[str, str]]) -> str:
    """Return rows as CSV, in the order of COLUMNS."""
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(rows)
    return text.getvalue()


def sell(lab: Lab, bucket: str, *days: date) -> None:
    """Let the shop do its trade on some days, and deliver their receipts."""
    s3 = services.aws.client(lab, "s3")
    for day in days:
        rows = table(trade.orders(day))
        psql(
            lab,
            f"delete from orders where order_id like '{day:%y%m%d}-T%';\n"
            f"copy orders ({', '.join(COLUMNS)}) from stdin with (format csv);\n{rows}\\.\n",
        )
        s3.put_object(Bucket=bucket, Key=seed.receipts_key(day), Body=trade.receipts(day))


def history(*days: date) -> str:
    """Return the statements that preload the trade of some days into the host's warehouse."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(row for day in days for row in trade.sales(day))
    create, *_ = Warehouse().create("none")
    listed = ", ".join(f"'{day}'" for day in days)
    return (
        f"set role warehouse;\n{create};\nbegin;\ndelete from sales where day in ({listed});\n"
        f"copy sales ({', '.join(SALES.names)}) from stdin with (format csv);\n{text.getvalue()}\\.\ncommit;\n"
    )


def deliver(lab: Lab, bucket: str, *days: date) -> None:
    """Put the receipts of some days onto S3, as the shops do."""
    s3 = services.aws.client(lab, "s3")
    for day in days:
        s3.put_object(Bucket=bucket, Key=seed.receipts_key(day), Body=seed.receipts(day))
