"""What a step of a release needs of the controller: the archive, and whose run this is."""

from __future__ import annotations

import getpass
import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# The package of the host's programs is no part of Ansible's Python.
sys.path.append(str(Path(__file__).parents[2] / "airflow" / "files" / "airstrip"))

from airstrip.release import lock, pack, tree


class ActionModule(ActionBase):
    """The options are documented in library/release.py."""

    def run(self, tmp=None, task_vars=None):
        """Pack here, or take the step on the host."""
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if arguments["step"] == "pack":
            try:
                return {**result, **packed(arguments["source"], arguments.get("version", ""), arguments["max_mb"])}
            except tree.Refused as error:
                raise AnsibleActionFail(str(error)) from error
        # Not getppid(): a worker outlives its ansible-playbook, and belongs to process 1 then.
        mine = arguments["owner"] = lock.identity(getpass.getuser(), multiprocessing.parent_process().pid)
        if not mine["began"]:
            raise AnsibleActionFail("The ansible-playbook of this step has ended")
        if "pack" in arguments:
            arguments["archive"] = self._sent(arguments.pop("pack")["archive"])
        taken = self._execute_module("release", module_args=arguments, task_vars=task_vars)
        if taken.get("holder") and lock.ended(taken["holder"]):
            arguments["break_lock"] = True
            taken = self._execute_module("release", module_args=arguments, task_vars=task_vars)
        return {**result, **taken}

    def _sent(self, archive: str) -> str:
        """Bring the archive to the host; return its path there."""
        return self._transfer_file(archive, self._connection._shell.join_path(self._make_tmp_path(), "release.tar.gz"))


def packed(source: str, version: str, most_mb: int) -> dict:
    """Pack a folder, or what a Git address has; return where the archive is and what is known of it."""
    archive = Path(tempfile.mkdtemp(dir=constants.DEFAULT_LOCAL_TMP)) / "release.tar.gz"
    with tempfile.TemporaryDirectory() as temporary, open(archive, "wb") as stream:
        folder = cloned(source, version, Path(temporary) / "source") if is_address(source) else Path(source)
        found = pack.pack(folder, stream, getpass.getuser(), int(most_mb))
    about = found["about"]
    said = [f"not shipped, because git ignores it: {', '.join(found['ignored'][:8])}"] if found["ignored"] else []
    return {"changed": False, "archive": str(archive), "release": about["release"], "said": said}


def is_address(source: str) -> bool:
    """Return whether a source is of a Git repository elsewhere, and no folder."""
    return "://" in source or (":" in source and not Path(source).exists())


def cloned(source: str, version: str, folder: Path) -> Path:
    """Return a checkout of a repository. Raises Refused."""
    branch = ["--branch", version] if version else []
    command = ["git", "clone", "--quiet", "--depth=1", "--recurse-submodules", "--shallow-submodules", *branch]
    result = subprocess.run([*command, "--", source, str(folder)], text=True, capture_output=True, check=False)
    if result.returncode:
        raise tree.Refused(f"{source} {version} cannot be read: {result.stderr.strip()}; see release_source")
    return folder
