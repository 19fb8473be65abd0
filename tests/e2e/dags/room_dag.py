"""DAGs whose tasks overstep their limits, for the tests of the runner."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pendulum
from airflow.sdk import dag, task

from airstrip.notices import notify_failure

START = pendulum.datetime(2026, 1, 1)
# What could be secret, and what could be changed, where another task or a part of Airflow would find it.
SECRETS = ["/etc/airflow/secrets/database_url", "/etc/airflow/secrets/jwt_secret", "/run/credentials"]
PLACES = ["/opt/airflow/home/plugins", "/opt/airflow/home", "/opt/airflow/settings", "/opt/airflow/venv/lib"]
SECRET_WORDS = ("SQL_ALCHEMY_CONN", "FERNET_KEY", "JWT_SECRET", "SECRET_KEY")


def may(action) -> bool:
    try:
        action()
    except OSError:
        return False
    return True


def reads(path: Path) -> bool:
    try:
        return bool(os.listdir(path) if path.is_dir() else path.read_bytes())
    except OSError:
        return False


@dag(
    schedule=None,
    start_date=START,
    is_paused_upon_creation=False,
    params={"seconds": 0.1},
    on_failure_callback=notify_failure,
)
def eater():
    """Takes memory until it is stopped, 20 MB each time."""

    @task
    def eat(params=None) -> None:
        held = []
        while True:
            held.append(os.urandom(2**20) * 20)
            time.sleep(params["seconds"])

    eat()


@dag(schedule=None, start_date=START, is_paused_upon_creation=False, on_failure_callback=notify_failure)
def bomb():
    """Forks without end."""

    @task
    def explode() -> None:
        while True:
            may(os.fork)

    explode()


@dag(schedule=None, start_date=START, is_paused_upon_creation=False)
def leaver():
    """Leaves a process that nobody would miss."""

    @task
    def leave() -> None:
        subprocess.run(["sh", "-c", "setsid sleep 54321 & exit 0"], check=True)

    leave()


@dag(schedule=None, start_date=START, is_paused_upon_creation=False, params={"log": "/nowhere", "secret": ""})
def prober():
    """Tells what it can reach."""

    @task
    def probe(params=None) -> str:
        print(f"The word is {params['secret']}")
        subprocess.run(["sh", "-c", f"echo the word is {params['secret']}"], check=True)
        readable = [path for path in SECRETS if reads(Path(path))]
        writable = [path for path in PLACES if may(lambda path=path: Path(path, "planted.py").write_text("1"))]
        if may(lambda: open(params["log"], "a").close()):
            writable.append(params["log"])
        if may(lambda: Path(params["log"]).unlink()):
            writable.append(f"removed {params['log']}")
        sockets = []
        for path in Path("/run/airflow-runner").glob("*.sock"):
            with socket.socket(socket.AF_UNIX) as client:
                if may(lambda client=client, path=path: client.connect(str(path))) and client.recv(1):
                    sockets.append(str(path))
        processes = {}
        for name in ("airflow-scheduler", "airflow-api-server", "airflow-dag-processor", "airflow-triggerer"):
            found = subprocess.run(["pgrep", "-u", name, "-o"], text=True, capture_output=True, check=False).stdout
            processes[name] = may(lambda found=found: Path(f"/proc/{found.strip()}/environ").read_bytes())
        signals = [
            name for name in ("airstrip.runner", "warm.py")
            if may(lambda name=name: os.kill(int(subprocess.check_output(["pgrep", "-o", "-f", name])), 0))
        ]  # fmt: skip
        environment = [name for name in os.environ if any(word in name for word in SECRET_WORDS)]
        found = {"readable": readable, "writable": writable, "sockets": sockets, "signals": signals}
        found["environment"] = [name for name in environment if "not-allowed" not in os.environ[name]]
        return json.dumps(found | {"processes": [name for name, read in processes.items() if read]})

    probe()


eater()
bomb()
leaver()
prober()
