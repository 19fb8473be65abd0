"""Changes that a power cut leaves either undone or done."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def before_change() -> None:
    """Come before every change; tests end the process here."""


def sync(folder: Path) -> None:
    """Write a folder's names to the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write(path: Path, text: str) -> None:
    """Replace a file."""
    new = path.with_name(f".{path.name}.new")
    before_change()
    with open(new, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    before_change()
    new.replace(path)
    sync(path.parent)


def link(path: Path, target: str) -> None:
    """Point a link elsewhere."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    before_change()
    new.symlink_to(target)
    before_change()
    new.replace(path)
    sync(path.parent)


def move(path: Path, target: Path) -> None:
    """Rename a folder that holds all it should."""
    os.sync()
    before_change()
    path.rename(target)
    sync(target.parent)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    before_change()
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
