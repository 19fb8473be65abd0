"""Whether somebody is at this host, who stops and starts what is watched."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from airstrip.release.folder import ROOT
from airstrip.systemd import running, seconds, show

# Who deploys, restores or upgrades, and who waits for the last tasks.
LOCK = ROOT / "lock"
WAITS = Path("/run/systemd/system/airflow-runner@.service.d/wait.conf")
LOCK_SECONDS = 3600


def somebody_is_at_it(now: float) -> bool:
    """Return whether a playbook or a reboot is at this host, or it was left for another."""
    with suppress(FileNotFoundError):
        if LOCK.stat().st_size > 1 and now - LOCK.stat().st_mtime < LOCK_SECONDS:
            return True
    with suppress(FileNotFoundError):
        if now - WAITS.stat().st_mtime < seconds(WAITS.read_text().strip().rpartition("=")[2] + "s") + LOCK_SECONDS:
            return True
    return running("airstrip-reboot.service") or show("airflow.target", "UnitFileState") == "disabled"
