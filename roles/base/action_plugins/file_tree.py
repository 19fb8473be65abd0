"""Render a folder of templates and send the whole tree to the host in one module call."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader

OPTIONS = ("directories", "links", "files", "verify", "until", "prune")


class ActionModule(ActionBase):
    """The options are documented in library/file_tree.py."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        unknown = set(arguments) - {"src", "dest", "template", *OPTIONS}
        if unknown:
            raise AnsibleActionFail(f"file_tree has no option {', '.join(sorted(unknown))}")
        src = arguments.get("src")
        if src and not os.path.isdir(src):
            raise AnsibleActionFail(f"file_tree: src is {src}, and there is no such folder on the controller")
        payload = {name: arguments[name] for name in OPTIONS if arguments.get(name)}
        payload["files"] = self._files(src, arguments, task_vars)
        result.update(self._execute_module("file_tree", module_args=payload, task_vars=task_vars))
        return result

    def _files(self, src, arguments, task_vars) -> dict[str, dict]:
        render = arguments.get("template", True)
        exceptions = dict(arguments.get("files") or {})
        files = {}
        for source, relative in _sources(src):
            if render:
                relative = relative.removesuffix(".j2")
            path = os.path.join(arguments.get("dest", "/"), relative)
            options = dict(exceptions.pop(path, {}))
            if options.get("state") != "absent":
                options["content"] = self._render(source, task_vars) if render else _read(source)
            files[options.pop("dest", path)] = options
        unplaced = [p for p, options in exceptions.items() if not {"content", "state"} & set(options)]
        if unplaced:
            raise AnsibleActionFail(f"file_tree: no template and no content for {', '.join(unplaced)}")
        return files | exceptions

    def _render(self, source, task_vars) -> str:
        lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
        return str(lookup.run([source], variables=task_vars)[0])


def _sources(src) -> Iterator[tuple[str, str]]:
    for folder, folders, names in os.walk(src or ""):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            source = os.path.join(folder, name)
            yield source, os.path.relpath(source, src)


def _read(source) -> str:
    with open(source, encoding="utf-8", newline="") as stream:
        return stream.read()
