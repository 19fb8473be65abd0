"""Another version of Airflow, rehearsed on a copy; `make soak NAME=upgrades` fails it and cuts it off at each step."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.load import Load, source
from tests.e2e.updates import state, wait_for_step
from tests.server import wait_until

HERE = Path(__file__).parent
# The registry's newest pre-release, whose database is another. All that Airstrip puts over Airflow is tried with it.
NEW = (HERE / "requirements.in").read_text().split("==")[1].strip()
CONNECTION = {"connection_id": "kept", "conn_type": "http", "password": "from the old version"}


@pytest.fixture(scope="module")
def given(server, tmp_path_factory) -> list[str]:
    """What the inventory says from now on; DAGs of the load are live."""
    checkout = source(tmp_path_factory.mktemp("source"))
    server.play("update.yml", "-e", f"release_source={checkout}")
    assert server.logged_in.post(f"{server.url}/api/v2/connections", json=CONNECTION).status_code == 201
    lock = str(HERE / "requirements.txt")
    return ["-e", json.dumps({"airflow_requirements_file": lock, "release_source": str(checkout)})]


@pytest.fixture(scope="module")
def old(server, given) -> dict[str, str]:
    return state(server)


@pytest.fixture
def session(server) -> Iterator[None]:
    """Somebody looks into the database."""
    command = [*server.ssh, "sudo", "runuser", "-u", "postgres", "--", "psql", "airflow"]
    psql = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    there = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'psql' AND datname = 'airflow'"
    # The one that asks is another.
    wait_until(lambda: server.sql(there) == "2", 30, "there is no session")
    yield
    psql.communicate()
    wait_until(lambda: server.sql(there) == "1", 30, "the session goes on")


def test_it_is_asked_for_by_name(server, given, old):
    refused = server.play("site.yml", *given, succeeds=False)
    assert f"runs Airflow {old['version']}" in refused.words and "run playbooks/upgrade.yml" in refused.words
    assert refused.changed == 0
    same = server.play("upgrade.yml")
    assert "nothing to do" in same.words and same.changed == 0


@pytest.mark.parametrize("playbook", ["site.yml", "rollback.yml"])
def test_after_an_interrupted_upgrade_other_playbooks_refuse(server, given, playbook):
    # What it keeps beside itself until it has ended.
    server.run("mkdir /var/lib/airstrip-upgrade")
    try:
        refused = server.play(playbook, succeeds=False)
    finally:
        server.run("rmdir /var/lib/airstrip-upgrade")
    assert "an upgrade was cut off: run playbooks/upgrade.yml again" in refused.words and refused.changed == 0


def test_what_would_end_badly_stops_nothing(server, given, old, session):
    refused = server.play("upgrade.yml", *given, succeeds=False)
    assert "the database is copied only while nobody else is in it" in refused.words
    assert "Nothing was stopped" in refused.words and state(server) == old


def test_a_migration_that_fails_on_the_copy_stops_nothing(server, given, old):
    units = "systemctl show --property=InvocationID airflow-dag-processor airflow-triggerer"
    before = server.run(units)
    server.sql("ALTER TABLE dag_code ADD COLUMN language text")
    try:
        refused = server.play("upgrade.yml", *given, succeeds=False)
    finally:
        server.sql("ALTER TABLE dag_code DROP COLUMN language")
    assert (
        f"the migration to {NEW} failed" in refused.words and 'of relation "dag_code" already exists' in refused.words
    )
    assert "Nothing was stopped" in refused.words
    assert state(server) == old and server.run(units) == before


def test_runs_that_began_before_end_in_the_new_version(server, given, old):
    with Load(server) as load:
        with load.held() as held:
            upgrade = server.begin("upgrade.yml", *given, "-e", "canary=sleepers", environment=server.ansible)
            wait_for_step(server, upgrade, "ls /run/systemd/system/airflow-runner@.service.d/wait.conf")
            assert state(server)["version"] == old["version"]
        said, _ = upgrade.communicate()
        assert upgrade.returncode == 0 and f"Airflow {NEW} serves" in " ".join(said.split()), said[-6000:]
    load.wait()
    assert load.lost() == []
    assert server.sql(f"SELECT state FROM dag_run WHERE run_id = '{held}'") == "success"
    new = state(server)
    assert new["version"] == NEW and new["database"] != old["database"] and new["databases"] == old["databases"]
    assert server.run("sha256sum < /opt/airflow/requirements.txt") != old["packages"]
    assert CONNECTION["password"] in server.run("airflow connections get kept --output json")
    server.wait_until_healthy()
    again = server.play("site.yml", *given)
    assert again.changed == 0, again.changed_tasks
    server.play("check.yml", *given)


def test_what_airstrip_puts_over_airflow_holds(server, given):
    """Restarts hand tasks over, and the database of the old version is not gone back to."""
    with Load(server) as load:
        server.run("airflow-restart scheduler runner")
        server.run("airflow-restart api-server")
    load.wait()
    assert load.lost() == [] and load.failed_requests == {}
    refused = server.play("rollback.yml", *given, succeeds=False)
    assert "has been migrated since" in refused.words
