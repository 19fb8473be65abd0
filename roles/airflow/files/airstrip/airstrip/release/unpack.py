"""Unpack an archive that somebody sends: exactly as it is, within limits, or refused by name."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import posixpath
import tarfile
import zlib
from pathlib import Path
from typing import IO, Any

from airstrip.release import disk
from airstrip.release.tree import ABOUT, CHUNK, LEFT_OUT, PARTS, PLACES, Refused, inside, printable

MOST_ENTRIES = 50_000
DEEPEST = 30
# The DAG processor looks for DAGs in dags/ alone; etl/ and plugins/ are imported from there.
IGNORE = "/etl/\n/plugins/\n"
# Headers that describe other entries, such as a long name.
HEADERS = {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.XGLTYPE,
           tarfile.SOLARIS_XHDTYPE}  # fmt: skip
LONGEST_HEADER = 2**14
# An archive ends with two empty blocks.
END = bytes(2 * tarfile.BLOCKSIZE)


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
        plain = Unzipped(stream)
        with tarfile.open(fileobj=plain, mode="r|", tarinfo=Entry) as tar:
            for number, entry in enumerate(tar):
                name = posixpath.normpath(entry.name)
                room -= entry.size
                if room < 0 or number >= MOST_ENTRIES or name.count("/") > DEEPEST:
                    most = f"{most_mb} MB, {MOST_ENTRIES} entries and {DEEPEST} folders in one another"
                    raise Refused(f"{printable(name)} is too much: a release has at most {most}")
                if name == ABOUT and not number:
                    about = dict(json.loads(tar.extractfile(entry).read(CHUNK)))
                elif not entry.isdir() and not LEFT_OUT & {*name.split("/")}:
                    files[name] = lay(tar, entry, name, folder)
                # It would keep all of them.
                tar.members = []
            # `git archive` notes its commit.
            about.setdefault("commit", tar.pax_headers.get("comment", ""))
        plain.end()
    except (tarfile.TarError, EOFError, ValueError, TypeError, gzip.BadGzipFile, zlib.error) as error:
        raise Refused(f"The archive is damaged or none: {error}") from error
    for name, what in files.items():
        if what.startswith("-> ") and not (folder / name).exists():
            raise Refused(f"{name} {what} leads nowhere: ship what it leads to, or delete it")
        # Links to links lead where no single one shows.
        if what.startswith("-> ") and not inside(folder, name):
            raise Refused(f"{name} {what} leads out of {PLACES}: move there what it means")
    if not any(name.startswith("dags/") for name in files):
        raise Refused("There is no file in dags/")
    return about, files


class Entry(tarfile.TarInfo):
    """An entry whose headers fit into memory."""

    @classmethod
    def frombuf(cls, *arguments: Any) -> tarfile.TarInfo:
        """Read a header. Raises Refused where it announces a long one."""
        entry = super().frombuf(*arguments)
        if entry.type in HEADERS and entry.size > LONGEST_HEADER:
            raise Refused(f"The archive has a header of {entry.size} bytes: it is none that tar or git makes")
        return entry


class Unzipped:
    """What is in a compressed stream, to be read once; it must have its end and its checksum."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._tail = gzip.GzipFile(fileobj=stream), b""

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        chunk = self._stream.read(size)
        self._tail = (self._tail + chunk)[-len(END) :]
        return chunk

    def end(self) -> None:
        """Read what comes after the last entry. Raises Refused where that is not an archive's end."""
        if len(self.read(CHUNK)) == CHUNK:
            raise Refused("The archive goes on after its end")
        if self._tail != END:
            raise Refused("The archive is cut short: send it again")


def lay(tar: tarfile.TarFile, entry: tarfile.TarInfo, name: str, folder: Path) -> str:
    """Write one entry, and return its description. Raises Refused where it would not be what it says."""
    path = folder / name
    if not name.isprintable():
        raise Refused(f"{name!a} has a character that cannot be printed: rename it")
    if name.split("/")[0] not in PARTS or "/" not in name:
        raise Refused(f"{name} is not in {PLACES}, which a release consists of")
    if any(parent.is_symlink() for parent in path.parents if parent != folder and parent.is_relative_to(folder)):
        raise Refused(f"{name} is below a symlink of the same archive")
    if os.path.lexists(path):
        raise Refused(f"{name} is there twice")
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.before_change()
    if entry.issym():
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), entry.linkname))
        if entry.linkname.startswith("/") or target.split("/")[0] not in PARTS:
            raise Refused(f"{name} -> {printable(entry.linkname)} leads out of {PLACES}: move there what it means")
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
