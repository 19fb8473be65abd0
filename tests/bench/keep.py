"""What is lost with a host and how soon it is back, who notices new secrets, how long an upgrade stops everything."""

from __future__ import annotations

import json
import re
import time

from lab.settings import BUCKET
from tests.bench.installation import seconds
from tests.bench.releases import empty, ship
from tests.e2e import load
from tests.e2e.load import Load
from tests.server import ROOT, Server, wait_until

WRITES = 3


def keep(server: Server) -> dict[str, list[float]]:
    """New secrets under load; then how late history reaches the bucket, a host that is lost, and another Airflow."""
    ship(server, load.source(empty()))
    with Load(server, poll=0.1) as run, run.held():
        rotation = server.begin("rotate.yml")
        scheduler = "systemctl list-units --plain --no-legend --state=active 'airflow-scheduler@*'"
        wait_until(lambda: server.run(scheduler) == "", 120, "it does not wait for running tasks")
    output, _ = rotation.communicate()
    assert rotation.returncode == 0, output[-3000:]
    run.wait()
    # A session that ended is what a rotation is for.
    lost = len(run.lost())
    failed = sum(count for name, count in run.failed_requests.items() if name not in {"401", "403"})
    server.forget()

    given = ["-e", json.dumps({"backup_bucket": BUCKET})]
    server.play("site.yml", *given)
    late = [seconds_until_kept(server) for _ in range(WRITES)]
    server.lose()
    provisioned = seconds(lambda: server.play("provision.yml"))
    restored = seconds(lambda: server.play("restore.yml", "-e", "to=latest", *given))
    server.play("site.yml", *given)
    server.wait_until_healthy()
    another = ["-e", f"airflow_requirements_file={ROOT}/tests/e2e/upgrade/requirements.txt", *given]
    undone = server.play("upgrade.yml", *another, "-e", "canary=none", succeeds=False).words
    done = server.play("upgrade.yml", *another).words
    return {
        "rpo_s": [max(late)],
        "restore_new_host_s": [provisioned + restored],
        "upgrade_pause_s": [float(re.search(r"serves, after (\d+) s", done)[1])],
        "upgrade_back_s": [float(re.search(r"serves again, (\d+) s", undone)[1])],
        "rotate_failed_requests": [failed],
        "rotate_failed_tasks": [lost],
    }


def seconds_until_kept(server: Server) -> float:
    """Return the seconds from a write, just after history was sent, until this too is in the bucket."""
    server.sql("SELECT pg_switch_wal()")
    time.sleep(2)
    began = time.monotonic()
    written = server.sql("CREATE TABLE IF NOT EXISTS probe (moment timestamptz); INSERT INTO probe VALUES (now()); "
                         "SELECT pg_walfile_name(pg_current_wal_lsn())")  # fmt: skip
    sent = f"SELECT last_archived_wal >= '{written}' FROM pg_stat_archiver"
    wait_until(lambda: server.sql(sent) == "t", 300, "history does not reach the bucket", every=0.2)
    return time.monotonic() - began
