"""A server's faults of a year, one after the other: what was lost, when it recovered, what was mailed."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections import Counter
from dataclasses import dataclass

from lab.settings import BUCKET
from tests.bench.watch import NAME, SHORT_LIVED, told
from tests.e2e.load import Load
from tests.e2e.runs import mails
from tests.e2e.tasks.test_heal import PAIRS, processes
from tests.server import ROOT, Server, wait_until
from tests.soak.machines import machine
from tests.soak.upgrades import ship

WATCHED = {"watch_mail_to": ["pager@lab.test"], "watch_name": NAME, "backup_bucket": BUCKET}
SINGLE = ("airflow-dag-processor.service", "airflow-triggerer.service", "nginx.service")
# A problem is told within two minutes, and its end too.
TOLD_SECONDS = 200
TALKER = """
from airflow.sdk import dag, task

@dag(schedule=None, is_paused_upon_creation=False)
def talker():
    @task
    def talk():
        for _ in range(1_000_000):
            print("x" * 1000)
    talk()

talker()
"""
CRASH = "/run/systemd/system/airflow-triggerer.service.d"
CRASHING = '[Service]\\nRestartSec=3\\nExecStart=\\nExecStart=/bin/sh -c "echo KeyError: smtp >&2; exit 1"\\n'
CRASHES = (
    f"mkdir -p {CRASH}; printf '{CRASHING}' > {CRASH}/crash.conf; systemctl daemon-reload; "
    "systemctl restart --no-block airflow-triggerer"
)
HOLD = "BEGIN; SELECT count(*) FROM (SELECT * FROM job FOR UPDATE) j; SELECT pg_sleep(3600)"


@dataclass(frozen=True)
class Fault:
    """What goes wrong, for how long, and what ends it; nothing does if it heals itself.

    `unit` must have another process afterwards; `dag` is run instead of a command.
    """

    begins: str = ""
    seconds: float = 0
    ends: str = ""
    unit: str = ""
    dag: str = ""


def faults() -> None:
    """Inject each fault under load; print what was lost, when it recovered, and what was mailed."""
    with machine() as (server, source):
        shutil.copy(ROOT / "tests" / "e2e" / "dags" / "room_dag.py", source / "dags")
        (source / "dags" / "talker.py").write_text(TALKER)
        # It makes the checkout's own DAGs live.
        server.play("site.yml", "-e", json.dumps(WATCHED))
        ship(server, source)
        print("| fault | lost | well after | mailed |\n|---|---|---|---|", flush=True)
        for signal in ("KILL", "STOP"):
            row(server, f"SIG{signal} of {', '.join((*PAIRS, *SINGLE))}, one after the other", *signals(server, signal))
        for name, fault in happenings(server).items():
            row(server, name, fault)


def signals(server: Server, signal: str) -> list[Fault]:
    """A signal to each component: to its first process, or to all that it has."""
    whom = "--kill-whom=main" if signal == "KILL" else ""
    units = [*map(server.unit, PAIRS), *SINGLE]
    return [Fault(f"systemctl kill {whom} -s {signal} {unit}", unit=unit) for unit in units]


def happenings(server: Server) -> dict[str, Fault]:
    """What else befalls a server."""
    port = re.search(r"backup_endpoint: \S+:(\d+)", (server.inventory / "group_vars" / "all.yml").read_text())[1]
    rule = f"table inet away {{ chain out {{ type filter hook output priority -10; tcp dport {port} reject; }}; }}"
    full = (
        "mount -t tmpfs -o size=100m tmpfs /mnt; cp -a /var/log/airflow/. /mnt/; logs=/var/log/airflow; "
        "chmod --reference=$logs /mnt; chown --reference=$logs /mnt; mount --bind /mnt $logs; "
        "head -c 95M /dev/zero > $logs/full"
    )
    certificate = "/etc/nginx/tls/certificate.pem"
    repaired = f"rm {CRASH}/crash.conf; systemctl daemon-reload; systemctl start airflow-triggerer"
    return {
        "PostgreSQL away": Fault("systemctl stop postgresql@17-main", 120, "systemctl start postgresql@17-main"),
        "disk of the logs 95 % full": Fault(full, TOLD_SECONDS, "umount --lazy /var/log/airflow /mnt"),
        "power cut": Fault("(sleep 1; systemctl --force --force reboot) > /dev/null 2>&1 &"),
        "a task that leaks memory": Fault(dag="eater"),
        "a task that logs a gigabyte": Fault(dag="talker"),
        "a task that forks without end": Fault(dag="bomb"),
        "certificate ends in 5 days": Fault(SHORT_LIVED, TOLD_SECONDS, f"mv /root/certificate.pem {certificate}"),
        "S3 unreachable": Fault(f"nft '{rule}'", 600, "nft delete table inet away"),
        "crash loop of the triggerer": Fault(CRASHES, TOLD_SECONDS, repaired),
        "row lock on all that is noted": Fault(f"systemd-run --quiet --uid=postgres psql -qc '{HOLD}' airflow"),
    }


def row(server: Server, name: str, *faults: Fault) -> None:
    """Let it happen, and print its row."""
    server.run("rm -f /var/lib/airstrip-heal/done.jsonl")
    server.wait_until_healthy()
    before, mailed = told(server), len(subjects(server))
    with Load(server, seconds=(1, 25), every=20) as run, run.held():
        seconds = [befall(run, fault) for fault in faults]
    run.wait(1800)
    if not any(fault.ends for fault in faults):
        time.sleep(TOLD_SECONDS)
    wait_until(lambda: over(server, before), TOLD_SECONDS, "it is not over", every=10)
    dags = {fault.dag for fault in faults} - {""}
    lost = [task for task in run.lost() if task.partition("|")[0] not in dags]
    again = [task for task in lost if "|success|" in task]
    said = f"{len(lost) - len(again)} of {run.tasks()} tasks, {len(again)} ran again"
    failed = sum(run.failed_requests.values())
    words = "; ".join(subjects(server)[mailed:]) or "nothing"
    well = ", ".join(f"{each:.0f}" for each in seconds)
    print(f"| {name} | {said}; {failed} of {run.requests.total()} requests | {well} s | {words} |", flush=True)


def befall(run: Load, fault: Fault) -> float:
    """Inject a fault; return the seconds until all works again, from its beginning or from what ends it."""
    server = run.server
    process = processes(server, [fault.unit]) if fault.unit else []
    began = time.monotonic()
    if fault.dag:
        run.start(fault.dag)
    else:
        server.run(fault.begins)
    time.sleep(fault.seconds)
    if fault.ends:
        began = time.monotonic()
        server.run(fault.ends)
    wait_until(lambda: works(run) and (not fault.unit or processes(server, [fault.unit]) != process), 400, every=1)
    return time.monotonic() - began


def works(run: Load) -> bool:
    """Whether Airflow is healthy and its scheduler ends a run that begins now."""
    with contextlib.suppress(AssertionError):
        if not run.server.healthy():
            return False
        since = run.server.sql("SELECT clock_timestamp()")
        ended = f"SELECT count(*) FROM dag_run WHERE dag_id = 'pulse' AND state = 'success' AND queued_at > '{since}'"
        return bool(wait_until(lambda: run.server.sql(ended) != "0", 5, "nobody schedules"))
    return False


def over(server: Server, before: Counter[str]) -> bool:
    """Whether each alerted check is reported well again."""
    now = set(told(server) - before)
    return {f"{name}: well again" for name in now if ": " not in name} <= now


def subjects(server: Server) -> list[str]:
    """What was mailed to the pager, in order of arrival."""
    words = [" ".join(str(mail["Subject"]).split()) for mail in mails(server, "")]
    return [line.removeprefix(f"{NAME}: ") for line in words if line.startswith(f"{NAME}: ")]
