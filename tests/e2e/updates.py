"""What is live on a server, and updates that are held in the middle."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import psutil

from tests.server import wait_until

LIVE = "basename $(readlink /srv/airflow/current)"
DAG = """
from airflow.sdk import DAG
with DAG({name!r}, schedule=None):
    pass
"""


def live(server) -> str:
    return server.run(LIVE).strip()


def state(server) -> dict[str, str]:
    """What an upgrade changes, and must bring back."""
    return {
        "version": server.session().get(f"{server.url}/api/v2/version").json()["version"],
        "database": server.sql("SELECT version_num FROM alembic_version"),
        "packages": server.run("sha256sum < /opt/airflow/requirements.txt"),
        "virtualenv": server.run("readlink /opt/airflow/venv"),
        "release": server.run("readlink /srv/airflow/current"),
        "databases": server.sql("SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database"),
    }


def begin(server, source) -> subprocess.Popen:
    (source / "etl" / "mark.py").write_text(f"NUMBER = {time.time()}\n")
    return server.begin("update.yml", "-e", f"release_source={source}", "-e", "release_import_seconds=120")


def whole(server) -> bool:
    """Whether the live release is what its manifest says."""
    check = (
        "import hashlib, json, pathlib; top = pathlib.Path('/srv/airflow/current'); "
        "files = json.loads((top / 'release.json').read_text())['files']; "
        "print(all(hashlib.sha256((top / n).read_bytes()).hexdigest() == d.split()[0] for n, d in files.items()))"
    )
    return server.run(f'python3 -c "{check}"').strip() == "True"


@contextlib.contextmanager
def slow(server, source):
    """The examination of an update goes on until the end of the block. Gives what shows that it has begun."""
    gate, file = "/run/gate-examination", source / "dags" / "slow.py"
    server.run(f"rm -f {gate}")
    waits = f"import pathlib, time\nwhile not pathlib.Path('{gate}').exists():\n    time.sleep(0.1)\n"
    file.write_text(waits + DAG.format(name="slow"))
    try:
        yield "systemctl is-active --quiet airflow-dag-processor@gate"
    finally:
        server.run(f"touch {gate}")
        file.unlink()


@contextlib.contextmanager
def deaf(server):
    """The DAG processor runs and reads nothing. Gives what shows that an update has switched and waits for it."""
    folder = "/run/systemd/system/airflow-dag-processor.service.d"
    # It says nothing to systemd either.
    text = "[Service]\\nType=exec\\nWatchdogSec=0\\nExecStart=\\nExecStart=/bin/sleep infinity\\n"
    server.run(f"mkdir -p {folder} && printf '{text}' > {folder}/deaf.conf && systemctl daemon-reload")
    server.run("systemctl restart airflow-dag-processor")
    try:
        yield "pgrep -f airstrip.liv[e].wait"
    finally:
        server.run(f"rm {folder}/deaf.conf && systemctl daemon-reload && systemctl restart airflow-dag-processor")


@contextlib.contextmanager
def killed(process: subprocess.Popen) -> Iterator[None]:
    """Kill a playbook. Its workers, which have sessions of their own, outlive it until the end of the block."""
    workers = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    try:
        yield
    finally:
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()


def wait_for_step(server, process: subprocess.Popen, sign: str, seconds: float = 150) -> None:
    """Wait until the host shows that an update has come to a step."""

    def there() -> bool:
        assert process.poll() is None, process.communicate()[0][-3000:]
        return "there" in server.run(f"{sign} > /dev/null && echo there", check=False)

    wait_until(there, seconds, sign, every=0.2)
