"""What a release asks of the rest of the host: systemd, the database, the gate, Airflow's health."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from airstrip import components as table
from airstrip.release import disk
from airstrip.release.folder import COMPLETE
from airstrip.release.tree import Refused
from airstrip.systemd import show, systemctl

VIRTUALENV = Path("/opt/airflow/venv")
HEALTH_SECONDS = 60
RESTART = "/usr/local/bin/airflow-restart"
PARSER = "dag-processor"
(PARSER_UNIT,) = table.TABLE[PARSER].units
GATE_UNIT = "airflow-dag-processor@gate.service"
GATE_SECONDS = 900
# The programs beside this one, newer than those in an older virtualenv.
PROGRAMS = str(Path(__file__).parents[2])


class Host:
    """The host with these components of Airflow."""

    def __init__(self, components: list[str]) -> None:
        self.components = components

    def virtualenv(self) -> str:
        """Return the live virtualenv."""
        return os.path.realpath(VIRTUALENV)

    def complete(self, virtualenv: str) -> bool:
        """Return whether a virtualenv is complete."""
        return (Path(virtualenv) / COMPLETE).exists()

    def version(self, virtualenv: str) -> str:
        """Return a virtualenv's version of Airflow; nothing if it is incomplete."""
        return (Path(virtualenv) / COMPLETE).read_text().strip() if self.complete(virtualenv) else ""

    def use(self, virtualenv: str) -> None:
        """Make a virtualenv the live one, for whatever starts next."""
        disk.link(VIRTUALENV, virtualenv)

    def gate(self, folder: Path, virtualenv: str, seconds: int, megabytes: int) -> dict[str, Any]:
        """Examine a staged release as the DAG processor's user, in its sandbox, with its variables."""
        unit = [
            "systemd-run", "--quiet", "--wait", "--collect", "--pipe", f"--unit={GATE_UNIT}",
            f"--property=RuntimeMaxSec={GATE_SECONDS}", "--setenv=_AIRFLOW_PROCESS_CONTEXT=server",
            # Whatever a file takes, the services beside it keep their memory.
            "--property=MemoryMax=60%", "--property=MemorySwapMax=0", "--property=OOMPolicy=continue",
            f"--setenv=AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT={seconds}",
        ]  # fmt: skip
        # One that outlived its run would be in the way; mostly there is none, which systemctl calls an error.
        systemctl("stop", GATE_UNIT)
        command = [
            *unit,
            f"{virtualenv}/bin/python",
            "-P",
            "-m",
            "airstrip.gate",
            f"--megabytes={megabytes}",
            str(folder),
        ]
        result = subprocess.run(command, text=True, capture_output=True, check=False)
        try:
            return json.loads(result.stdout.strip().splitlines()[-1])
        except (ValueError, IndexError):
            what = f"the examination itself failed with {result.returncode}: {result.stderr.strip()[-2000:]}"
            return {"problems": [what]}

    def ask(self, *arguments: str, virtualenv: str | None = None) -> list[str]:
        """Ask the database; return the lines of the answer."""
        python = f"{virtualenv or VIRTUALENV}/bin/python"
        environment = {"CREDENTIALS_DIRECTORY": "/etc/airflow/secrets", "PYTHONPATH": PROGRAMS, "PATH": os.defpath}
        command = [python, "-P", "-m", *arguments]
        result = subprocess.run(command, text=True, capture_output=True, check=False, env=environment)
        if result.returncode:
            raise Refused(f"The database does not answer: {result.stderr.strip()[-500:]}")
        return [line for line in result.stdout.splitlines() if line]

    def needed(self) -> list[str]:
        """Return the releases that unfinished runs need."""
        return self.ask("airstrip.live", "needed")

    def stranded(self, folder: Path) -> list[str]:
        """Return a line for each DAG that goes on and is not in the release."""
        return self.ask("airstrip.live", "stranded", str(folder))

    def missing(self, folder: Path, seconds: int) -> list[str]:
        """Wait until Airflow has every DAG of the release; return those that it has not in time."""
        return self.ask("airstrip.live", "wait", str(folder), str(seconds))

    def foreign(self, virtualenv: str) -> list[str]:
        """Return the tables whose revision is not the one that a virtualenv's Airflow wants."""
        return self.ask("airstrip.database", "behind", virtualenv=virtualenv)

    def stale(self, plugins: Path) -> list[str]:
        """Return the components that run with other packages or plugins than those that are live."""
        changed = max(os.lstat(link).st_mtime for link in (VIRTUALENV, plugins) if os.path.lexists(link))
        return [name for name in self.components if self.started(name) <= changed]

    def started(self, component: str) -> float:
        """Return when a component was started, in seconds since 1970; 0 if it does not run."""
        boot = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
        active = [unit for unit in table.TABLE[component].units if show(unit, "ActiveState") == "active"]
        return max((boot + int(show(unit, "InactiveExitTimestampMonotonic")) / 1e6 for unit in active), default=0)

    def restart(self, components: list[str]) -> list[str]:
        """Restart components; return what there is to know. It may wait for the tasks of the old ones."""
        return self._run(RESTART, *components).splitlines()

    def stop_parser(self) -> None:
        """Stop the DAG processor."""
        self._run("systemctl", "stop", PARSER_UNIT)

    def start_parser(self) -> None:
        """Start the DAG processor, where it does not run."""
        self._run("systemctl", "start", PARSER_UNIT)

    def wait_until_healthy(self) -> None:
        """Wait until each component says so. Raises Refused."""
        if sick := table.wait_until_healthy(self.components, HEALTH_SECONDS):
            names = ", ".join(sick)
            raise Refused(f"Not healthy with these packages: {names}. Look at: journalctl -e -u 'airflow-*'")

    def _run(self, *command: str) -> str:
        result = subprocess.run(command, text=True, capture_output=True, check=False, stdin=subprocess.DEVNULL)
        if result.returncode:
            raise Refused(f"{' '.join(command)} said: {(result.stderr or result.stdout).strip()}")
        return result.stdout
