"""An archive of a folder or a checkout, made by a controller, or to examine a release before it is shipped.

What must not be in a release is refused where the archive is unpacked, whoever made it: unpack.py.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import posixpath
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from airstrip.release.tree import ABOUT, LEFT_OUT, PARTS, PLACES, Refused, now, walked


def pack(source: Path, stream: IO[bytes], author: str, most_mb: int) -> dict[str, Any]:
    """Write a folder's tree as an archive, and return what is known `about` it and git's `ignored` paths.

    Raises Refused.
    """
    # In an unfinished merge git lists a path several times.
    names = sorted({*listed(source)})
    statuses = [(source / name).lstat() for name in names]
    size = sum(status.st_size for status in statuses) // 2**20
    if size > most_mb:
        raise Refused(
            f"{PLACES} of {source} hold {size} MB, a release {most_mb}: keep data on S3, or set release_max_mb"
        )
    about = described(source, author)
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        text = json.dumps(about).encode()
        tar.addfile(member(ABOUT, size=len(text)), io.BytesIO(text))
        for name, status in zip(names, statuses, strict=True):
            path = source / name
            if stat.S_ISLNK(status.st_mode):
                tar.addfile(member(name, type=tarfile.SYMTYPE, linkname=os.readlink(path)))
            elif stat.S_ISREG(status.st_mode):
                with open(path, "rb") as content:
                    tar.addfile(member(name, size=status.st_size, mode=status.st_mode & 0o777), content)
            else:
                raise Refused(f"{path} is neither a file nor a symlink: move it out of the release")
    return {"about": about, "ignored": ignored(source)}


def member(name: str, **values: Any) -> tarfile.TarInfo:
    """Return an entry of an archive."""
    info = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(info, key, value)
    return info


def listed(folder: Path, parts: tuple[str, ...] = PARTS) -> Iterator[str]:
    """Yield the paths of the files and symlinks of a folder; of a checkout what git does not ignore."""
    if not checkout(folder):
        for part in parts:
            yield from walked(folder, part)
        return
    found = git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *parts)
    for name in found.split("\0"):
        path = folder / name
        if not name or LEFT_OUT & {*Path(name).parts} or not os.path.lexists(path):
            continue
        if path.is_symlink() or not path.is_dir():
            yield name
        elif any(path.iterdir()):
            # A submodule, or a checkout inside of the checkout.
            yield from (posixpath.join(name.rstrip("/"), inner) for inner in listed(path, (".",)))
        else:
            raise Refused(f"{path} is a submodule without its files: git submodule update --init --recursive")


def described(source: Path, author: str) -> dict[str, str]:
    """Return the release's name, commit, author and time."""
    commit = by = ""
    dirty = False
    if checkout(source):
        commit, by = (git(source, "log", "-1", "--format=%H%n%an <%ae>").splitlines() or ["", ""])[:2]
        dirty = bool(git(source, "status", "--porcelain", "--", *PARTS))
    return {"release": named(commit, dirty), "commit": commit, "author": by or author, "made": now()}


def named(commit: str, dirty: bool = False) -> str:
    """Return a release's name: the time and the commit."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{commit[:12] or 'nocommit'}{'-dirty' if commit and dirty else ''}"


def ignored(source: Path) -> list[str]:
    """Return what git ignores among the parts, but for bytecode."""
    if not checkout(source):
        return []
    words = ("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory", "--", *PARTS)
    names = [name for name in git(source, *words).split("\0") if name]
    return [name for name in names if not LEFT_OUT & {*Path(name).parts} and not name.endswith(".pyc")]


def checkout(folder: Path) -> bool:
    """Return whether git knows the folder; False if a checkout around it ignores it.

    Raises Refused where there is a checkout that git does not read: what it ignores would be shipped.
    """
    if not any((parent / ".git").exists() for parent in (folder.resolve(), *folder.resolve().parents)):
        return False
    if git(folder, "rev-parse", "--is-inside-work-tree").strip() != "true":
        raise Refused(f"git does not read {folder}: see what it says to `git -C {folder} status`, and fix that")
    return not git(folder, "check-ignore", ".")


def git(folder: Path, *arguments: str) -> str:
    """Return what git says of a folder; nothing where it is no checkout."""
    with suppress(OSError):
        command = ["git", "-C", str(folder), *arguments]
        output = subprocess.run(command, capture_output=True, check=False).stdout
        return output.decode(errors="surrogateescape")
    return ""
