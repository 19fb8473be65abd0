"""The tree of a release: dags/, etl/ and plugins/, exactly as they are, or refused by name.

A tree is described by a dictionary of path to what is there: a file's SHA-256, with ` +x` where it may be executed, or
`-> target` for a symlink. Folders without a file do not count.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

PARTS = ("dags", "etl", "plugins")
# Never a part of the code, wherever it is.
LEFT_OUT = {"__pycache__", ".git"}
ABOUT = "about.json"
CHUNK = 2**20
PLACES = "dags/, etl/ and plugins/"
LONGEST_TEXT = 1000
# Of a larger file --diff says only that it changed.
LARGEST_DIFF = 2**18


class Refused(Exception):
    """What was asked for cannot be done; the message holds the fix."""


def walked(folder: Path, part: str) -> Iterator[str]:
    """Yield the paths below a part of a folder that is no checkout."""
    for parent, folders, files in os.walk(folder / part):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        folders[:] = [name for name in folders if name not in LEFT_OUT and name not in links]
        for name in files + links:
            if name not in LEFT_OUT:
                yield os.path.relpath(os.path.join(parent, name), folder)


def now() -> str:
    """Return the time, to be read by people."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def inside(folder: Path, name: str) -> bool:
    """Return whether a path of a tree really leads to dags/, etl/ or plugins/."""
    real, top = (folder / name).resolve(), folder.resolve()
    return any(real.is_relative_to(top / part) for part in PARTS)


def printable(text: str) -> str:
    """Return foreign text as one line of reasonable length, to be shown and kept."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:LONGEST_TEXT]


def description(folder: Path) -> dict[str, str]:
    """Return the description of a tree as it is on the disk, which somebody may have edited."""
    found = {}
    for name in (name for part in PARTS for name in walked(folder, part)):
        path = folder / name
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        else:
            with open(path, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            found[name] = digest + (" +x" if path.stat().st_mode & 0o100 else "")
    return found


def difference(old: dict[str, str], new: dict[str, str]) -> dict[str, list[str]]:
    """Return what was added, changed and removed between two dictionaries."""
    return {
        "added": sorted(set(new) - set(old)),
        "changed": sorted(name for name in set(new) & set(old) if new[name] != old[name]),
        "removed": sorted(set(old) - set(new)),
    }


def summary(changes: dict[str, list[str]], thing: str) -> str:
    """Return `1 DAG added (a), 2 DAGs changed (b, c)`."""
    parts = []
    for verb, names in changes.items():
        if names:
            some = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            parts.append(f"{len(names)} {thing}{'s' if len(names) > 1 else ''} {verb} ({some})")
    return ", ".join(parts) or f"no {thing} added, changed or removed"


def diff(name: str, before: Path, after: Path) -> str:
    """Return what --diff shows of one path in two trees."""
    old, new = read(before / name), read(after / name)
    if old is None or new is None:
        return f"live/{name} and new/{name} differ\n"
    return "".join(difflib.unified_diff(old, new, f"live/{name}", f"new/{name}")) or f"{name}: other mode\n"


def read(path: Path) -> list[str] | None:
    """Return the lines of a file, none where there is no file, or nothing where it is no text to be shown."""
    if path.is_symlink():
        return [f"-> {os.readlink(path)}\n"]
    if not path.is_file():
        return []
    if path.stat().st_size > LARGEST_DIFF:
        return None
    with suppress(UnicodeDecodeError):
        return path.read_text(encoding="utf-8").splitlines(keepends=True)
    return None
