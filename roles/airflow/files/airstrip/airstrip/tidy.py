"""Keep what grows by itself within its bytes; airstrip-tidy.timer runs it.

tidy.py logs FOLDER MEGABYTES       removes the oldest files
tidy.py brought FOLDER MEGABYTES    the same, but a task's log goes once the bucket has it, whatever its age
tidy.py cache FOLDER MEGABYTES UV   empties uv's cache above that size
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

MEGABYTE = 2**20
# A task may still be writing to a file this new, or be about to write into a folder this new.
YOUNG_SECONDS = 3600


def logs(folder: str, megabytes: str, tasks: str = "") -> None:
    """Remove the oldest files below a folder until the rest fits, and the folders that are empty then.

    Those below a path that begins with `tasks` go to a bucket: an empty one is there already, any other is not yet.
    Tasks write there too, so nothing is reached by its path: a link in a folder's place is not followed.
    """
    room, last = int(megabytes) * MEGABYTE, -1.0
    for modified, size in sorted(
        ((file.st_mtime, file.st_blocks * 512) for _, _, _, file in _files(folder)), reverse=True
    ):
        room -= size
        if room < 0:
            last = modified
            break
    young = time.time() - YOUNG_SECONDS
    for root, name, place, file in _files(folder):
        bucket = tasks and root.startswith(f"{folder}/{tasks}")
        if file.st_mtime <= young and (not file.st_size if bucket else file.st_mtime <= last):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=place)
    for _, folders, _, place in os.fwalk(folder, topdown=False):
        for name in folders:
            # One that is not empty stays by itself.
            with suppress(OSError):
                if os.stat(name, dir_fd=place, follow_symlinks=False).st_mtime < time.time() - YOUNG_SECONDS:
                    os.rmdir(name, dir_fd=place)


def brought(folder: str, megabytes: str) -> None:
    """Remove the oldest logs, and of tasks those that the bucket has."""
    logs(folder, megabytes, "dag_id=")


def cache(folder: str, megabytes: str, uv: str) -> None:
    """Empty uv's cache above a size; what it shares with a virtualenv takes no room of its own and is not counted."""
    alone = sum(file.st_blocks * 512 for _, _, _, file in _files(folder) if file.st_nlink == 1)
    if alone > int(megabytes) * MEGABYTE:
        subprocess.run([uv, "cache", "clean", "--quiet", "--cache-dir", folder], check=True)


def _files(folder: str) -> Iterator[tuple[str, str, int, os.stat_result]]:
    """Each file below a folder: its folder, its name, its folder's descriptor, good until the next, and what it is."""
    for root, _, names, place in os.fwalk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                file = os.stat(name, dir_fd=place, follow_symlinks=False)
                if stat.S_ISREG(file.st_mode):
                    yield root, name, place, file


if __name__ == "__main__":
    {"logs": logs, "brought": brought, "cache": cache}[sys.argv[1]](*sys.argv[2:])
