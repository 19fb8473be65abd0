"""New keys and passwords under load."""

from __future__ import annotations

import pytest
import requests

from tests.e2e.load import Load
from tests.e2e.updates import killed, wait_for_step
from tests.server import Server, wait_until

FOLDER = "/etc/airflow/secrets"
CONNECTION = {"connection_id": "kept", "conn_type": "http", "password": "read with either key"}


def secrets(server: Server) -> dict[str, str]:
    """Each secret that was generated."""
    names = server.run(f"ls {FOLDER}").split()
    return {name: server.run(f"cat {FOLDER}/{name}").strip() for name in names}


@pytest.mark.parametrize("cut_off", [False, pytest.param(True, marks=pytest.mark.long)])
def test_all_of_them_change_under_load(loaded, cut_off):
    server = loaded
    api, before = server.logged_in, secrets(server)
    assert api.post(f"{server.url}/api/v2/connections", json=CONNECTION).status_code == 201
    with Load(server) as run:
        with run.held():
            rotation = server.begin("rotate.yml", environment={} if cut_off else server.ansible)
            scheduler = "systemctl list-units --plain --no-legend --state=active 'airflow-scheduler@*'"
            wait_until(lambda: server.run(scheduler) == "", 60, "it does not wait for the running task")
            assert secrets(server) == before
        if cut_off:
            # Between the new key and what it encrypts.
            wait_for_step(server, rotation, f"grep , {FOLDER}/fernet_key")
            with killed(rotation):
                server.play("rotate.yml")
        else:
            said, _ = rotation.communicate()
            assert rotation.returncode == 0, said[-6000:]
        server.wait_until_healthy()
    run.wait()
    # Whoever was logged in logs in again; nothing else is noticed.
    assert set(run.failed_requests) <= {"401", "403"}
    assert run.lost() == []

    after = secrets(server)
    assert after.keys() == before.keys() and not set(after.values()) & set(before.values())
    assert "," not in after["fernet_key"]
    assert "read with either key" in server.run("airflow connections get kept --output json")
    assert api.get(f"{server.url}/api/v2/dags").status_code in {401, 403}
    old = {"username": "admin", "password": before["admin_password"]}
    assert requests.post(f"{server.url}/auth/token", json=old, verify=api.verify).status_code == 401
    server.forget()
    server.run("airflow connections delete kept")
    assert "peer" not in server.run("grep airflow /etc/postgresql/*/main/pg_hba.conf")
    assert server.play("site.yml", "--tags", "postgresql,airflow").changed == 0
    server.play("check.yml")
