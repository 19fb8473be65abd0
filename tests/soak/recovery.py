"""A long history whose host is lost, a server that moves to another Debian, disks that are full."""

from __future__ import annotations

import json
import re
import time

from lab import disk
from lab.settings import BUCKET
from tests.bench.installation import seconds
from tests.e2e.load import Load
from tests.e2e.updates import killed, wait_for_step
from tests.server import Server, wait_until
from tests.soak.machines import empty_lab, machine

BACKUPS = ["-e", json.dumps({"backup_bucket": BUCKET})]
CONNECTION = {"connection_id": "kept", "conn_type": "http", "password": "of the old host"}
RUNS, TASKS = 10_000, 100
COPIED = (
    "SELECT x.* FROM (SELECT * FROM {0} WHERE dag_id = 'sleepers' LIMIT 1) old, {1}, "
    "LATERAL jsonb_populate_record(NULL::{0}, to_jsonb(old) || {2}) x"
)
HISTORY = [
    "INSERT INTO dag_run "
    + COPIED.format(
        "dag_run",
        f"generate_series(1, {RUNS}) n",
        "jsonb_build_object('id', 1000000 + n, 'run_id', 'long_ago_' || n, 'logical_date', NULL)",
    ),
    "INSERT INTO task_instance "
    + COPIED.format(
        "task_instance",
        f"generate_series(1, {RUNS}) n, generate_series(1, {TASKS}) m",
        "jsonb_build_object('id', gen_random_uuid(), 'run_id', 'long_ago_' || n, 'map_index', m)",
    ),
]
# A folder, the megabytes of its disk, and what may not be at it meanwhile.
SMALL_DISKS = {
    "logs": ("/var/log/airflow", 200, "true"),
    # In memory, of which the machine has 2 GB: more, and it is memory that is short.
    "data": ("/var/lib/postgresql", 320, "systemctl stop airflow.target 'airflow-*' postgresql@17-main"),
}
STOPPED = "! systemctl is-active --quiet airflow.target"
# What shows, one after the other, that a restore has come to a stage.
RESTORES = {
    "Airflow stops": [STOPPED],
    "files come": [STOPPED, "pgrep -f 'pgbackrest.*restor[e]'"],
    "PostgreSQL plays history": [STOPPED, "test -e /var/lib/postgresql/17/main/recovery.signal"],
    "Airflow starts": [STOPPED, "systemctl is-active --quiet airflow-triggerer"],
}
COUNTS = "SELECT (SELECT count(*) FROM dag_run), (SELECT count(*) FROM task_instance)"


def history() -> None:
    """Lose a host with a million task instances, and bring it back on a new one."""
    with machine() as (server, _):
        with Load(server) as run:
            pass
        run.wait()
        server.play("site.yml", *BACKUPS)
        for statement in HISTORY:
            server.sql(statement)
        size = int(server.sql("SELECT pg_database_size('airflow')")) // 2**20
        print(f"history {server.sql(COUNTS)} runs and task instances, {size} MB", flush=True)
        print(f"history_backup_s {seconds(lambda: server.play('backup.yml', *BACKUPS, '-e', 'full=true')):.0f}")
        print(f"history_drill_s {seconds(lambda: server.run('systemctl start airstrip-drill')):.0f}", flush=True)
        counts = server.sql(COUNTS)
        sent(server)
        print(f"history_restore_new_host_s {rebuilt(server, 'latest'):.0f}", flush=True)
        print(f"history_lost {'nothing' if server.sql(COUNTS) == counts else f'{counts} became {server.sql(COUNTS)}'}")


def restores() -> None:
    """Cut a restore off at each of its stages; say whether one more run ends it, and what was lost."""
    with machine() as (server, _):
        server.play("site.yml", *BACKUPS)
        with Load(server) as run:
            pass
        run.wait()
        for stage, signs in RESTORES.items():
            counts, moment = (
                server.sql(COUNTS),
                server.sql("SELECT to_char(clock_timestamp(), 'YYYY-MM-DD HH24:MI:SSOF')"),
            )
            time.sleep(2)
            server.sql("DELETE FROM task_instance")
            restore = ["restore.yml", "-e", json.dumps({"to": moment}), *BACKUPS]
            process = server.begin(*restore)
            for sign in signs:
                wait_for_step(server, process, sign)
            with killed(process):
                pass
            again = seconds(lambda restore=restore: once_more(server, restore))
            lost = "nothing" if server.sql(COUNTS) == counts else f"{counts} became {server.sql(COUNTS)}"
            server.play("site.yml", *BACKUPS)
            server.wait_until_healthy()
            print(f"restore, killed at {stage}: whole {again:.0f} s after it began again, lost {lost}", flush=True)


def once_more(server: Server, restore: list[str]) -> None:
    """Run it again as it was, or as it asks for where PostgreSQL is down."""
    process = server.begin(*restore)
    output, _ = process.communicate()
    if process.returncode:
        assert "add -e lose=true" in " ".join(output.split()), output[-3000:]
        server.play(*restore, "-e", "lose=true")


def sent(server: Server) -> None:
    """Wait until all that was written is in the bucket."""
    written = server.sql("SELECT pg_current_wal_lsn()")
    there = f"SELECT pg_walfile_name('{written}') <= last_archived_wal FROM pg_stat_archiver"
    wait_until(lambda: server.sql(there) == "t", 300, "the history does not reach the bucket")


def rebuilt(server: Server, to: str) -> float:
    """Lose the host; return the seconds until another serves, from nothing."""
    server.lose()
    disk.start_from(server.lab, server.stack, None)
    began = time.monotonic()
    server.play("provision.yml")
    server.play("restore.yml", "-e", f"to={to}", *BACKUPS)
    return time.monotonic() - began


def move() -> None:
    """Move a server from Debian 12 with PostgreSQL 15 to Debian 13 with PostgreSQL 17, and compare all of its rows."""
    with empty_lab() as place:
        server = place.server("mover", aws_debian_release="12")
        server.play("provision.yml")
        server.play("site.yml", *BACKUPS)
        answer = server.logged_in.post(f"{server.url}/api/v2/connections", json=CONNECTION)
        assert answer.status_code == 201, answer.text
        server.play("run.yml", "-e", "dag=twitter")
        stopped = time.monotonic()
        server.play("backup.yml", "-e", "last=true", *BACKUPS)
        before, version = rows(server), server.sql("SHOW server_version")
        server.run("systemctl reboot", check=False)
        wait_until(lambda: server.run("systemctl is-active airflow.target", check=False).strip() == "inactive", 120)
        # The inventory of the same machine says another Debian.
        server = place.server("mover", aws_debian_release="13")
        rebuilt(server, "last")
        after = rows(server)
        server.play("site.yml", *BACKUPS)
        print(f"move: PostgreSQL {version} to {server.sql('SHOW server_version')}")
        print(f"move_without_service_s {time.monotonic() - stopped:.0f}")
        # What started meanwhile has added events and heartbeats.
        lost = sorted(name for name in before if int(before[name]) > int(after.get(name, 0)))
        print(f"move_lost {lost or 'nothing'} of {len(before)} tables")
        assert CONNECTION["password"] in server.run("airflow connections get kept --output json")
        server.wait_until_healthy()
        server.play("backup.yml", *BACKUPS)
        server.play("check.yml", *BACKUPS)


def rows(server: Server) -> dict[str, str]:
    """Return how many rows each table has, of both databases."""
    counted = "query_to_xml(format('SELECT count(*) AS c FROM %I', tablename), false, true, '')"
    count = f"SELECT tablename, (xpath('/row/c/text()', {counted}))[1] FROM pg_tables WHERE schemaname = 'public'"
    return {
        f"{database}.{name}": number
        for database in ("airflow", "warehouse")
        for name, number in (line.split("|") for line in server.sql(count, database).splitlines())
    }


def disk_full() -> None:
    """Fill the disk of the logs, then that of the database, while tasks run; print what was lost and how it ended."""
    with machine() as (server, _):
        for name, (folder, megabytes, stop) in SMALL_DISKS.items():
            onto_small_disk(server, folder, megabytes, stop)
            server.run("systemctl start postgresql@17-main airflow.target")
            server.wait_until_healthy()
            with Load(server, every=5) as run:
                server.run(f"head -c {megabytes + 1}M /dev/zero > {folder}/full", check=False)
                said = server.play("check.yml", succeeds=False).words
                print(f"{name}: the doctor said {re.search('FAIL disk.*?;', said)[0]}", flush=True)
                time.sleep(60)
                server.run(f"rm {folder}/full")
                began = time.monotonic()
                server.wait_until_healthy()
                run.start("sleepers", seconds=1)
                print(f"{name}: healthy {time.monotonic() - began:.0f} s after there was room", flush=True)
            run.wait()
            print(f"{name}: {run.tasks()} tasks, lost {run.lost()}, failed requests {run.failed_requests}", flush=True)
            damage = server.run(
                "runuser -u postgres -- $(ls /usr/lib/postgresql/*/bin/pg_amcheck) --all --install-missing 2>&1",
                check=False,
            )
            print(f"{name}: damaged {damage or 'nothing'}", flush=True)


def onto_small_disk(server: Server, folder: str, megabytes: int, stop: str) -> None:
    """Move a folder onto a disk of its own that is soon full."""
    server.run(
        f"{stop}; cp -a {folder} /root/moved; mount -t tmpfs -o size={megabytes}m tmpfs {folder}; "
        f"chown --reference=/root/moved {folder}; chmod --reference=/root/moved {folder}; "
        f"cp -a /root/moved/. {folder}/; rm -r /root/moved"
    )
