"""Reuse what another virtualenv has compiled of identical files: bytecode.py OLD NEW

Most files of two virtualenvs are the same, and compiling them all takes a minute. compileall does what is still missing
after this.

Standard library only: it runs before anything else of a new virtualenv.
"""

from __future__ import annotations

import filecmp
import struct
import sys
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path

# Magic number, flags, and the source's modification time in seconds and size (PEP 552).
HEADER = struct.Struct("<4s3L")


def take_over(old: Path, new: Path) -> int:
    """Copy missing bytecode of each source that is in both, and return of how many."""
    taken = 0
    for source in new.glob("lib/**/*.py"):
        bytecode = Path(cache_from_source(str(source)))
        twin, compiled = (old / path.relative_to(new) for path in (source, bytecode))
        if bytecode.exists() or not (compiled.is_file() and same(source, twin)):
            continue
        content = compiled.read_bytes()
        magic, flags, modified, size = HEADER.unpack_from(content)
        if magic == MAGIC_NUMBER and not flags and (modified, size) == stamp(twin):
            bytecode.parent.mkdir(exist_ok=True)
            # Atomically: half a file would have a good header, and compileall checks no more.
            part = bytecode.with_suffix(".part")
            part.write_bytes(HEADER.pack(magic, flags, *stamp(source)) + content[HEADER.size :])
            part.replace(bytecode)
            taken += 1
    return taken


def same(source: Path, twin: Path) -> bool:
    """Return whether both have the same bytes."""
    return twin.is_file() and filecmp.cmp(source, twin, shallow=False)


def stamp(source: Path) -> tuple[int, int]:
    """Return what bytecode notes of its source."""
    status = source.stat()
    return int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF


if __name__ == "__main__":
    take_over(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
