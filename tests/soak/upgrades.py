"""An upgrade that fails, and one that is cut off, at each of its stages."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.load import git
from tests.e2e.updates import killed, state, wait_for_step
from tests.server import ROOT, Server, wait_until
from tests.soak.machines import machine

PACKAGES = ROOT / "tests" / "e2e" / "upgrade" / "requirements.txt"
CANARY = """
from airflow.sdk import dag, task

@dag(schedule=None, is_paused_upon_creation=False)
def canary():
    @task
    def fails():
        raise RuntimeError("not with this version")
    fails()

canary()
"""
ONLY_OLD = """
from airflow import __version__
from airflow.sdk import DAG

if __version__ >= "3.4":
    raise RuntimeError("not with this version")
with DAG("only_old", schedule=None):
    pass
"""
NEW_STARTS = "systemctl is-active --quiet airflow-triggerer && grep 3.4 /opt/airflow/venv/complete"
OTHER_PACKAGES = "ls -d /opt/airflow/venvs/* | grep -v $(readlink /opt/airflow/venv)"
DATABASE = "runuser -u postgres -- psql -Atc \"SELECT 1 FROM pg_database WHERE datname = '{}'\" | grep 1"
# What shows that an upgrade has come to a stage.
STAGES = {
    "new packages": OTHER_PACKAGES,
    "rehearsal": DATABASE.format("airflow_rehearsal"),
    "waiting for tasks": "ls -d /var/lib/airstrip-upgrade",
    "backup point": DATABASE.format("airflow_before"),
    "new version starts": f"{DATABASE.format('airflow_before')} && {NEW_STARTS}",
    "canary": "runuser -u postgres -- psql -Atc \"SELECT 1 FROM dag_run WHERE dag_id = 'canary'\" airflow | grep 1",
}


def upgrades() -> None:
    """Make an upgrade fail, and cut it off, at each of its stages; say each time whether all is as it was before."""
    with machine() as (server, source):
        (source / "dags" / "canary.py").write_text(CANARY)
        ship(server, source)
        given = ["-e", json.dumps({"airflow_requirements_file": str(PACKAGES), "release_source": str(source)})]
        failing = [*given, "-e", "canary=canary"]
        before = state(server)
        for name, fault in faults(server, source).items():
            with fault:
                said = server.play("upgrade.yml", *given, succeeds=False)
            tell(name, server, before, said.words)
        tell("failed canary", server, before, server.play("upgrade.yml", *failing, succeeds=False).words)
        server.run(f"rm -r $({OTHER_PACKAGES})")
        for name, sign in STAGES.items():
            upgrade = server.begin("upgrade.yml", *failing)
            wait_for_step(server, upgrade, sign, 600)
            with killed(upgrade):
                pass
            said = server.play("upgrade.yml", *failing, "-e", "lose=true", succeeds=False)
            tell(f"killed at {name}", server, before, said.words)
        said = server.play("upgrade.yml", *given).words
        print(f"upgraded: {re.search(r'Airflow [0-9.a-z]+ serves, after [0-9]+ s', said)[0]}")


def ship(server: Server, source: Path) -> None:
    """Make the DAGs of the checkout live."""
    git(source, "add", ".")
    git(source, "commit", "--quiet", "--message=Other DAGs")
    server.play("update.yml", "-e", f"release_source={source}")


def tell(name: str, server: Server, before: dict[str, str], said: str) -> None:
    """Print whether a failed upgrade left the server as it was."""
    wait_until(server.healthy, 120, "Airflow is not healthy")
    after = state(server)
    changed = [key for key in before if before[key] != after[key]]
    words = re.search(r"Nothing was stopped|serves again, \d+ s later.*?Lost: [^.]*", said)
    print(f"upgrade, {name}: {words[0] if words else said[-600:]}; changed {changed}", flush=True)


def faults(server: Server, source: Path) -> dict[str, contextlib.AbstractContextManager]:
    """Return what makes each stage fail, for as long as it is entered."""
    return {
        "packages that do not install": read_only(server, "/opt/airflow/wheels"),
        "a DAG that the new version refuses": refused_dag(source),
        "a migration that fails on the database and not on its copy": not_started(server, "airflow-cli@"),
        **{f"{unit} that does not start": not_started(server, unit) for unit in (
            "airflow-api-server@", "airflow-dag-processor", "airflow-scheduler@")},
    }  # fmt: skip


@contextlib.contextmanager
def read_only(server: Server, folder: str) -> Iterator[None]:
    server.run(f"mount -t tmpfs -o ro tmpfs {folder}")
    yield
    server.run(f"umount {folder}")


@contextlib.contextmanager
def refused_dag(source: Path) -> Iterator[None]:
    path = source / "dags" / "only_old.py"
    path.write_text(ONLY_OLD)
    yield
    path.unlink()


@contextlib.contextmanager
def not_started(server: Server, unit: str) -> Iterator[None]:
    folder = f"/run/systemd/system/{unit}.service.d"
    text = "[Service]\\nExecStartPre=/bin/sh -c '! grep 3.4 /opt/airflow/venv/complete'\\n"
    server.run(f'mkdir -p {folder}; printf "{text}" > {folder}/broken.conf; systemctl daemon-reload')
    yield
    server.run(f"rm {folder}/broken.conf; systemctl daemon-reload")
