"""What a release needs of the controller: its code, its name, and whose run this is."""

from __future__ import annotations

import base64
import contextlib
import getpass
import hashlib
import io
import multiprocessing
import os
import subprocess
import tarfile
from datetime import UTC, datetime
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

PARTS = ("dags", "etl")
# The DAG processor looks for DAGs in dags/ alone; etl/ is imported from there.
IGNORE = b"/etl/\n"
LARGEST = 64 * 2**20


class ActionModule(ActionBase):
    """The options are documented in library/release.py."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if arguments["step"] == "pack":
            return {**result, **pack(Path(arguments["source"]))}
        if "pack" in arguments:
            arguments["pack"] = dict(arguments["pack"])
            arguments["archive"] = arguments["pack"].pop("archive")
        # Not getppid(): a worker outlives its ansible-playbook, and belongs to process 1 then.
        arguments["owner"] = owner(multiprocessing.parent_process().pid)
        if not arguments["owner"]["began"]:
            raise AnsibleActionFail("The ansible-playbook of this step has ended")
        result.update(self._execute_module("release", module_args=arguments, task_vars=task_vars))
        if result.get("holder") and ended(result["holder"], arguments["owner"]):
            arguments["break_lock"] = True
            result = self._execute_module("release", module_args=arguments, task_vars=task_vars)
        return result


def pack(source: Path) -> dict:
    """Read the code, and name the release by the time and the commit."""
    files = {".airflowignore": (IGNORE, 0o644)}
    for part in PARTS:
        for path in sorted((source / part).rglob("*")):
            name = path.relative_to(source)
            if path.is_file() and not any(word.startswith(".") or word == "__pycache__" for word in name.parts[:-1]):
                files[str(name)] = (path.read_bytes(), path.stat().st_mode)
    size = sum(len(content) for content, _ in files.values())
    if size > LARGEST:
        raise AnsibleActionFail(
            f"{source}/dags and etl hold {size // 2**20} MiB; a release takes {LARGEST // 2**20}: keep data on S3"
        )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, (content, mode) in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
    made = datetime.now(UTC)
    commit, author = (git(source, "log", "-1", "--format=%H%n%an <%ae>").splitlines() or ["", ""])[:2]
    known = {".airflowignore", *git(source, "ls-files", "--", *PARTS).splitlines()}
    changed = git(source, "status", "--porcelain", "--", *PARTS) or set(files) - known
    dirty = "-dirty" if commit and changed else ""
    manifest = {
        "commit": commit,
        "author": author or getpass.getuser(),
        "made": f"{made:%Y-%m-%dT%H:%M:%SZ}",
        "files": {name: hashlib.sha256(content).hexdigest() for name, (content, _) in files.items()},
    }
    return {
        "changed": False,
        "release": f"{made:%Y%m%dT%H%M%SZ}-{commit[:12] or 'nocommit'}{dirty}",
        "manifest": manifest,
        "archive": base64.b64encode(buffer.getvalue()).decode(),
    }


def git(source: Path, *arguments: str) -> str:
    """What git says of the source; nothing where it is no repository."""
    command = ["git", "-C", source, *arguments]
    with contextlib.suppress(OSError):
        return subprocess.run(command, text=True, capture_output=True, check=False).stdout.strip()
    return ""


def owner(process: int) -> dict[str, str | int]:
    """Whose run this is: a person, a machine (or a container on it), and ansible-playbook's process there."""
    began = subprocess.run(["ps", "-o", "lstart=", "-p", str(process)], text=True, capture_output=True, check=False)
    space = Path("/proc/self/ns/pid")
    return {
        "user": getpass.getuser(),
        "host": os.uname().nodename,
        "space": os.readlink(space) if space.exists() else "",
        "process": process,
        "began": began.stdout.strip(),
    }


def ended(holder: dict, mine: dict) -> bool:
    """Whether the holder of a lock was a run on this machine that is no more."""
    here = all(holder.get(key) == mine[key] for key in ("user", "host", "space"))
    return here and owner(holder["process"])["began"] != holder["began"]
