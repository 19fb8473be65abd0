#!/usr/bin/python
"""Bring files, directories and links of a host to a wanted state, all or nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_tree
short_description: Bring a whole tree of files to the host in one call
description:
  - Renders every template below C(src) and writes what differs.
  - One module call for all files is what keeps a second run short.
  - Checkers run before and after; where one fails, every file is put back and the task fails.
options:
  src:
    description: Folder of the templates, whose folders mirror the target's. Without it C(files) says all.
    type: str
  dest:
    description: Where the tree begins on the host; the default is C(/).
    type: str
  template:
    description: Whether the files are templates; the default is true.
    type: bool
  files:
    description:
      - Path on the host to exceptions from C(root:root 0644). C(content) makes a file that no
        template has, C(state=absent) removes one, C(dest) moves one, C(validate) is the product's
        checker as a list of words with C(%s) for the new file.
    type: dict
  directories:
    description: Path to C(owner), C(group) and C(mode) (root, root and 0755 where not given).
    type: dict
  links:
    description: Path to target.
    type: dict
  prune:
    description: Folders on the host whose unwanted files are removed, except Python's bytecode.
    type: list
    elements: path
  verify:
    description: Commands, as lists of words, that must succeed once all files are in place.
    type: list
    elements: list
  until:
    description:
      - File on the host that names what was changed and not yet applied. The handler that applies it
        deletes the file; until then each call returns those paths as changed, so that the next run
        completes one that was cut off between the two.
    type: path
author: Airstrip
"""

EXAMPLES = r"""
- name: Configure nginx
  file_tree:
    src: "{{ role_path }}/templates"
    files:
      /etc/nginx/tls/key.pem: {mode: "0600", content: "{{ key }}"}
    verify:
      - [nginx, -t]
"""

RETURN = r"""
paths:
  description: What was changed, and what C(until) says was not yet applied.
  type: list
  returned: always
"""

import grp
import os
import pwd
import shutil
import stat
import tempfile
from contextlib import suppress

from ansible.module_utils.basic import AnsibleModule


class Refused(Exception):
    """A checker said no."""


class Entry:
    """One path, as it is and as it should be."""

    def __init__(self, path: str, kind: str, options: dict) -> None:
        self.path = path
        self.kind = kind
        self.validate = options.get("validate")
        self.content = options.get("content", "").encode()
        self.target = options.get("target")
        self.owner = options.get("owner", "root")
        self.group = options.get("group", "root")
        self.mode = options.get("mode", "0755" if kind == "directory" else "0644")
        self.before = self._read()

    def _read(self) -> dict:
        try:
            status = os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return {"kind": "absent"}
        if stat.S_ISLNK(status.st_mode):
            return {"kind": "link", "target": os.readlink(self.path)}
        found = {
            "owner": _name(pwd.getpwuid, status.st_uid),
            "group": _name(grp.getgrgid, status.st_gid),
            "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        }
        if stat.S_ISDIR(status.st_mode):
            return {"kind": "directory", **found}
        with open(self.path, "rb") as stream:
            return {"kind": "file", "content": stream.read(), **found}

    @property
    def after(self) -> dict:
        if self.kind == "absent":
            return {"kind": "absent"}
        if self.kind == "link":
            return {"kind": "link", "target": self.target}
        wanted = {"kind": self.kind, "owner": self.owner, "group": self.group, "mode": self.mode}
        return {**wanted, "content": self.content} if self.kind == "file" else wanted

    @property
    def changed(self) -> bool:
        return self.before != self.after

    def diff(self) -> dict:
        return {
            "before_header": self.path,
            "after_header": self.path,
            "before": _text(self.before),
            "after": _text(self.after),
        }


def _name(look_up, number: int) -> str:
    try:
        return look_up(number)[0]
    except KeyError:
        return str(number)


def _text(state: dict) -> str:
    head = " ".join(str(state[key]) for key in ("kind", "owner", "group", "mode", "target") if key in state)
    return f"# {head}\n" + state.get("content", b"").decode(errors="replace")


def put(path: str, state: dict) -> None:
    """Bring one path to a state."""
    kind = state["kind"]
    if kind == "directory":
        if os.path.islink(path):
            os.unlink(path)
        os.makedirs(path, exist_ok=True)
        _own(path, state)
        return
    if kind == "absent":
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            with suppress(FileNotFoundError):
                os.unlink(path)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path), prefix=".tree-") as folder:
        new = os.path.join(folder, "new")
        if kind == "link":
            os.symlink(state["target"], new)
        else:
            with open(new, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
                stream.write(state["content"])
            _own(new, state)
        if os.path.isdir(path) and not os.path.islink(path):
            raise Refused(f"{path} is a directory where a {kind} belongs: move it away")
        os.replace(new, path)


def _own(path: str, state: dict) -> None:
    try:
        user, group = pwd.getpwnam(state["owner"]).pw_uid, grp.getgrnam(state["group"]).gr_gid
    except KeyError as error:
        raise Refused(f"{path}: {error.args[0]}: this user or group does not exist on the host") from None
    os.chown(path, user, group)
    os.chmod(path, int(state["mode"], 8))


def pending(until: str) -> list[str]:
    """What an earlier run changed and did not apply."""
    with suppress(FileNotFoundError), open(until, encoding="utf-8") as stream:
        return stream.read().splitlines()
    return []


def note(until: str, paths: list[str]) -> None:
    """Write down what is to be applied, on the disk before the first change."""
    os.makedirs(os.path.dirname(until), exist_ok=True)
    if not paths:
        os.unlink(until)
        return
    with open(until, "w", encoding="utf-8") as stream:
        stream.write("\n".join(paths) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def check(module: AnsibleModule, entry: Entry) -> None:
    """Check a file that will change with the product's own checker."""
    with tempfile.TemporaryDirectory() as folder:
        new = os.path.join(folder, os.path.basename(entry.path))
        with open(new, "wb") as stream:
            stream.write(entry.content)
        run(module, [word.replace("%s", new) for word in entry.validate], entry.path)


def run(module: AnsibleModule, command: list[str], subject: str) -> None:
    code, out, err = module.run_command(command)
    if code:
        raise Refused(f"{subject}: {' '.join(command)} said: {(err or out).strip()}")


def entries(wanted: dict) -> list[Entry]:
    """What the options of the module ask for, folders before what is in them."""
    folders = [Entry(path, "directory", options or {}) for path, options in wanted["directories"].items()]
    files = [Entry(path, options.get("state", "file"), options) for path, options in wanted["files"].items()]
    links = [Entry(path, "link", {"target": target}) for path, target in wanted["links"].items()]
    strangers = [Entry(path, "absent", {}) for folder in wanted["prune"] for path in strangers_in(folder, wanted)]
    return folders + files + links + strangers


def strangers_in(folder: str, wanted: dict) -> list[str]:
    """Unwanted files beneath a folder."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [os.path.join(parent, name) for name in names]
    return sorted({*found} - {*wanted["files"], *wanted["links"]})


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "dict", "default": {}},
            "directories": {"type": "dict", "default": {}},
            "links": {"type": "dict", "default": {}},
            "prune": {"type": "list", "elements": "path", "default": []},
            "verify": {"type": "list", "elements": "list", "default": []},
            "until": {"type": "path"},
        },
        supports_check_mode=True,
        # Files may hold secrets, and the journal notes a module's options.
        no_log=True,
    )
    wanted = module.params
    changes = [entry for entry in entries(wanted) if entry.changed]
    until = wanted["until"]
    earlier = pending(until) if until else []
    paths = earlier + [entry.path for entry in changes if entry.path not in earlier]
    result = {
        "changed": bool(paths),
        "paths": paths,
        "diff": [entry.diff() for entry in changes],
    }
    if module.check_mode:
        module.exit_json(**result)
    done: list[Entry] = []
    try:
        for entry in changes:
            if entry.validate and entry.kind == "file":
                check(module, entry)
        if until and changes:
            note(until, paths)
        for entry in changes:
            done.append(entry)
            put(entry.path, entry.after)
        for command in wanted["verify"] if paths else []:
            run(module, command, "the new files")
    except (Refused, OSError) as error:
        for entry in reversed(done):
            put(entry.path, entry.before)
        if until and changes:
            note(until, earlier)
        module.fail_json(
            msg=f"{error}\nEverything was put back as it was; --diff shows what was refused.", diff=result["diff"]
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
