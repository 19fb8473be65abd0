"""Upload remaining logs to the bucket: those of tasks that ended together with what would have uploaded them.

airstrip-logs.timer runs it. A log that was uploaded is empty on this host.
"""

from __future__ import annotations

import contextlib
import fcntl
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from airflow.configuration import conf
from airflow.logging_config import get_remote_task_log

# Whoever is about to open a log has done so by then.
QUIET_SECONDS = 60


def leftovers(folder: Path) -> Iterator[Path]:
    """Yield each log with something in it that nobody writes to."""
    for path in sorted(folder.glob("dag_id=*/**/*.log")):
        with contextlib.suppress(FileNotFoundError):
            about = path.lstat()
            old = about.st_mtime < time.time() - QUIET_SECONDS
            if stat.S_ISREG(about.st_mode) and about.st_size and old and not in_use(path):
                yield path


def in_use(path: Path) -> bool:
    """Return whether anybody has a file open: the kernel then grants no write lease on it."""
    with path.open("rb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except BlockingIOError:
            return True
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def main() -> None:
    """Bring all of them. Raises SystemExit with the names of those that the bucket did not take."""
    folder, bucket = Path(conf.get_mandatory_value("logging", "base_log_folder")), get_remote_task_log()
    if not bucket:
        raise SystemExit("No bucket is set for logs: airflow_log_bucket")
    brought, left = 0, []
    for path in leftovers(folder):
        try:
            bucket.upload(path.relative_to(folder))
            there = path.stat().st_size
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            print(f"{path}: {error}", flush=True)
            there = True
        brought += not there
        left += [str(path)] * bool(there)
    print(f"{brought} logs brought to the bucket", flush=True)
    sys.exit(f"The bucket did not take these, why is above: {', '.join(left)}" if left else 0)


if __name__ == "__main__":
    main()
