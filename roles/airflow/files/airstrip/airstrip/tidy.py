"""Keep what grows by itself within its bytes; airstrip-tidy.timer runs it.

tidy.py logs FOLDER MEGABYTES       removes the oldest files
tidy.py cache FOLDER MEGABYTES UV   empties uv's cache, where more lies there alone
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
# A task may still write what was written so lately, and folders so young may be about to be filled.
YOUNG_SECONDS = 3600


def logs(folder: str, megabytes: str) -> None:
    """Remove the oldest files below a folder until the rest fits, and the folders that are empty then.

    Others may write there, so nothing is reached by its path: who puts a link in a folder's place is not followed.
    """
    room, last = int(megabytes) * MEGABYTE, -1.0
    for modified, size in sorted(
        ((file.st_mtime, file.st_blocks * 512) for _, _, file in _files(folder)), reverse=True
    ):
        room -= size
        if room < 0:
            last = modified
            break
    last = min(last, time.time() - YOUNG_SECONDS)
    for name, place, file in _files(folder):
        if file.st_mtime <= last:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=place)
    for _, folders, _, place in os.fwalk(folder, topdown=False):
        for name in folders:
            # One that is not empty stays by itself.
            with suppress(OSError):
                if os.stat(name, dir_fd=place, follow_symlinks=False).st_mtime < time.time() - YOUNG_SECONDS:
                    os.rmdir(name, dir_fd=place)


def cache(folder: str, megabytes: str, uv: str) -> None:
    """Empty uv's cache where more than so much lies there alone; what a virtualenv shares with it takes no room."""
    alone = sum(file.st_blocks * 512 for _, _, file in _files(folder) if file.st_nlink == 1)
    if alone > int(megabytes) * MEGABYTE:
        subprocess.run([uv, "cache", "clean", "--quiet", "--cache-dir", folder], check=True)


def _files(folder: str) -> Iterator[tuple[str, int, os.stat_result]]:
    """Each file below a folder: its name, its folder's descriptor, which is good until the next, and what it is."""
    for _, _, names, place in os.fwalk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                file = os.stat(name, dir_fd=place, follow_symlinks=False)
                if stat.S_ISREG(file.st_mode):
                    yield name, place, file


if __name__ == "__main__":
    {"logs": logs, "cache": cache}[sys.argv[1]](*sys.argv[2:])
