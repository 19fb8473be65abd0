"""A production year's leftovers are removed automatically and stay readable."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest

from lab.settings import BUCKET
from tests.server import wait_until

LOGS = "/var/log/airflow"


def test_old_rows_leave_the_database_for_a_dump(server):
    runs = f"{server.url}/api/v2/dags/twitter/dagRuns"
    for name in ("old", "older", "new"):
        body = {"logical_date": None, "run_after": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "dag_run_id": name}
        assert server.logged_in.post(runs, json=body).status_code == 200
    server.sql(
        "UPDATE dag_run SET state = 'success', start_date = now() - interval '91 days' WHERE run_id IN ('old', 'older')"
    )
    server.sql("INSERT INTO log (dttm, event) SELECT now() - interval '91 days', 'long_ago' FROM generate_series(1, 9)")
    events = int(server.sql("SELECT count(*) FROM log"))

    server.run("systemctl start airstrip-clean")
    assert server.sql("SELECT count(*) FROM log WHERE event = 'long_ago'") == "0"
    assert int(server.sql("SELECT count(*) FROM log")) >= events - 9
    there = server.sql("SELECT run_id FROM dag_run WHERE run_id IN ('old', 'older', 'new')").split()
    assert there == ["new"]
    dump = server.run("zcat /var/lib/airstrip-clean/before-*.sql.gz")
    assert dump.count("long_ago") == 9 and "older" in dump
    assert server.sql(r"SELECT count(*) FROM pg_tables WHERE tablename LIKE '\_airflow\_deleted%'") == "0"
    assert server.logged_in.delete(f"{runs}/new").status_code == 204
    assert re.search(
        r"MB on \d{4}-\d\d-\d\d, -?\d+ more than on .*, \d+ % of its rows dead", server.play("check.yml").words
    )


@pytest.mark.long
def test_logs_are_on_s3_when_their_tasks_have_ended_and_a_reboot_comes_at_its_hour(server, ship):
    wanted = {"airflow_log_bucket": BUCKET, "airflow_reboot": "Sun 04:00"}
    given = ["--tags", "airflow", "-e", json.dumps(wanted)]
    server.play("site.yml", *given)
    assert server.play("site.yml", *given).changed == 0
    server.wait_until_healthy()
    ship()
    server.play("run.yml", "-e", "dag=sleepers", "-e", '{"conf": {"seconds": 0}}')
    run = server.sql("SELECT run_id FROM dag_run WHERE dag_id = 'sleepers' ORDER BY id DESC LIMIT 1")
    key = f"dag_id=sleepers/run_id={run}/task_id=lengths/attempt=1.log"
    log = f"{server.url}/api/v2/dags/sleepers/dagRuns/{run}/taskInstances/lengths/logs/1?full_content=true"

    def kept() -> str:
        return server.aws("s3").get_object(Bucket=BUCKET, Key=f"logs/{key}")["Body"].read().decode()

    def more(words: str) -> None:
        line = json.dumps({"event": words})
        server.run(f"cat >> '{LOGS}/{key}' && touch -d '2 minutes ago' '{LOGS}/{key}'", stdin=f"{line}\n")

    assert '"event"' in kept() and server.run(f"stat --format=%s '{LOGS}/{key}'") == "0\n"
    assert f"s3://{BUCKET}" in server.logged_in.get(log).text

    # Somebody still writes to it, and is killed then.
    more("the last words")
    opens = f"exec sleep infinity 3>> '{LOGS}/{key}'"
    server.run(
        f'systemd-run --quiet --unit=writer --property=User=airflow-tasks --property=Group=airflow bash -c "{opens}"'
    )
    descriptors = "ls /proc/$(systemctl show --value --property=MainPID writer)/fd"
    wait_until(lambda: "3" in server.run(descriptors, check=False).split(), 10, "nobody writes")
    server.run("systemctl start airstrip-logs")
    assert "the last words" not in kept()
    server.run("systemctl kill --signal=KILL writer; systemctl reset-failed writer", check=False)
    server.run("systemctl start airstrip-logs")
    assert "the last words" in kept() and "the last words" in server.logged_in.get(log).text

    # A bucket that takes nothing is told, and nothing is lost.
    more("kept meanwhile")
    folder = "/run/systemd/system/airstrip-logs.service.d"
    server.run(f"mkdir -p {folder}; printf '[Service]\\nPrivateNetwork=yes\\n' > {folder}/away.conf")
    server.run("systemctl daemon-reload; systemctl start airstrip-logs", check=False)
    assert "The bucket did not take these" in server.run("journalctl -u airstrip-logs -n 50 --output=cat")
    assert "airstrip-logs.service" in server.play("check.yml", succeeds=False).words
    server.run(f"rm -r {folder}; systemctl daemon-reload; systemctl start airstrip-logs")
    assert "kept meanwhile" in kept()

    # Nothing asks for a reboot; then something does.
    booted = "systemctl show -p UserspaceTimestampMonotonic"
    before = server.run(booted)
    server.run("systemctl start airstrip-reboot.service && systemctl is-active airstrip-reboot.timer")
    assert server.run(booted) == before
    server.run("touch /run/reboot-required && systemctl start --no-block airstrip-reboot.service")
    wait_until(lambda: server.run(booted, check=False) not in {before, ""}, 180, "it did not boot", every=1)
    server.wait_until_healthy()

    server.play("site.yml")
    again = server.play("site.yml")
    assert again.changed == 0, again.changed_tasks
    server.wait_until_healthy()
