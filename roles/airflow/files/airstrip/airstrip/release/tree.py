"""The tree of a release: dags/, etl/ and plugins/, exactly as they are, or refused by name.

A tree is described by a dictionary of path to what is there: a file's SHA-256, with ` +x` where it may be executed, or
`-> target` for a symlink. Folders without a file do not count.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import json
import os
import posixpath
import stat
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from airstrip.release import disk

PARTS = ("dags", "etl", "plugins")
# Never a part of the code, wherever it is.
LEFT_OUT = {"__pycache__", ".git"}
ABOUT = "about.json"
# The DAG processor looks for DAGs in dags/ alone; etl/ and plugins/ are imported from there.
IGNORE = "/etl/\n/plugins/\n"
CHUNK = 2**20
MOST_FILES = 50_000
# Of a larger file --diff says only that it changed.
LARGEST_DIFF = 2**18


class Refused(Exception):
    """What was asked for cannot be done; the message holds the fix."""


def pack(source: Path, stream: IO[bytes], author: str, most_mb: int) -> dict[str, Any]:
    """Write a folder's tree as an archive, and return what is known `about` it and git's `ignored` paths.

    Raises Refused.
    """
    # Of a merge that is not finished git lists a path several times.
    names = sorted({*listed(source)})
    statuses = [(source / name).lstat() for name in names]
    size = sum(status.st_size for status in statuses) // 2**20
    if size > most_mb:
        raise Refused(
            f"dags/, etl/ and plugins/ of {source} hold {size} MB, a release {most_mb}: keep data on S3, or set "
            "release_max_mb"
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


def walked(folder: Path, part: str) -> Iterator[str]:
    """Yield the paths below a part of a folder that is no checkout."""
    for parent, folders, files in os.walk(folder / part):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        folders[:] = [name for name in folders if name not in LEFT_OUT and name not in links]
        for name in files + links:
            if name not in LEFT_OUT:
                yield os.path.relpath(os.path.join(parent, name), folder)


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


def now() -> str:
    """Return the time, to be read by people."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def ignored(source: Path) -> list[str]:
    """Return what git ignores among the parts, but for bytecode."""
    if not checkout(source):
        return []
    words = ("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory", "--", *PARTS)
    names = [name for name in git(source, *words).split("\0") if name]
    return [name for name in names if not LEFT_OUT & {*Path(name).parts} and not name.endswith(".pyc")]


def checkout(folder: Path) -> bool:
    """Return whether git knows the folder; not so one that a checkout around it ignores."""
    inside = git(folder, "rev-parse", "--is-inside-work-tree").strip() == "true"
    return inside and not git(folder, "check-ignore", ".")


def git(folder: Path, *arguments: str) -> str:
    """Return what git says of a folder; nothing where it is no checkout."""
    with suppress(OSError):
        command = ["git", "-C", str(folder), *arguments]
        output = subprocess.run(command, capture_output=True, check=False).stdout
        return output.decode(errors="surrogateescape")
    return ""


def unpack(stream: IO[bytes], folder: Path, most_mb: int) -> tuple[dict[str, str], dict[str, str]]:
    """Lay an archive out in a new folder; return what it says about itself and the description of its tree.

    Memory stays flat. Raises Refused, with the name of the entry.
    """
    about: dict[str, str] = {}
    files: dict[str, str] = {}
    room = most_mb * 2**20
    folder.mkdir(parents=True)
    (folder / ".airflowignore").write_text(IGNORE)
    try:
        plain = unzipped(stream)
        with tarfile.open(fileobj=plain, mode="r|") as tar:
            for entry in tar:
                name = posixpath.normpath(entry.name)
                if name == ABOUT and not files:
                    about = json.loads(tar.extractfile(entry).read(CHUNK))
                elif not entry.isdir() and not LEFT_OUT & {*name.split("/")}:
                    room -= entry.size
                    if room < 0 or len(files) >= MOST_FILES:
                        raise Refused(f"{name} is too much: a release has {most_mb} MB and {MOST_FILES} files at most")
                    files[name] = lay(tar, entry, name, folder)
            # `git archive` notes its commit.
            about.setdefault("commit", tar.pax_headers.get("comment", ""))
        # The checksum comes last.
        if len(plain.read(CHUNK)) == CHUNK:
            raise Refused("The archive goes on after its end")
    except (tarfile.TarError, EOFError, ValueError, gzip.BadGzipFile, zlib.error) as error:
        raise Refused(f"The archive is damaged or none: {error}") from error
    for name, what in files.items():
        if what.startswith("-> ") and not (folder / name).exists():
            raise Refused(f"{name} {what} leads nowhere: ship what it leads to, or delete it")
    if not any(name.startswith("dags/") for name in files):
        raise Refused("There is no file in dags/")
    return about, files


def unzipped(stream: IO[bytes]) -> IO[bytes]:
    """Return what is in a stream that may be compressed."""
    buffered = stream if hasattr(stream, "peek") else io.BufferedReader(stream)
    return gzip.GzipFile(fileobj=buffered) if buffered.peek(2)[:2] == b"\x1f\x8b" else buffered


def lay(tar: tarfile.TarFile, entry: tarfile.TarInfo, name: str, folder: Path) -> str:
    """Write one entry, and return its description. Raises Refused where it would not be what it says."""
    path = folder / name
    if name.split("/")[0] not in PARTS or "/" not in name:
        raise Refused(f"{name} is not in dags/, etl/ or plugins/, which a release consists of")
    if not name.isprintable():
        raise Refused(f"{name!a} has a character that cannot be printed: rename it")
    if os.path.lexists(path):
        raise Refused(f"{name} is there twice")
    parent = path.parent
    parent.mkdir(parents=True, exist_ok=True)
    if parent.resolve() != folder.resolve() / parent.relative_to(folder):
        raise Refused(f"{name} is below a symlink of the same archive")
    disk.before_change()
    if entry.issym():
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), entry.linkname))
        if entry.linkname.startswith("/") or target.split("/")[0] not in PARTS:
            raise Refused(f"{name} -> {entry.linkname} leads out of dags/, etl/ and plugins/: move there what it means")
        path.symlink_to(entry.linkname)
        return f"-> {entry.linkname}"
    if not entry.isreg():
        raise Refused(f"{name} is neither a file nor a symlink: move it out of the release")
    digest, content = hashlib.sha256(), tar.extractfile(entry)
    with open(path, "xb") as file:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
            file.write(chunk)
    executable = bool(entry.mode & 0o100)
    path.chmod(0o755 if executable else 0o644)
    return digest.hexdigest() + (" +x" if executable else "")


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
