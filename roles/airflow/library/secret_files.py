#!/usr/bin/python
"""Keep secrets in files that only root reads, generating those that are missing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secret_files
short_description: Generate secrets once and keep them in files that only root reads
options:
  directory:
    description: Folder of the files, mode 0700.
    type: path
    required: true
  secrets:
    description:
      - Name to C(kind) (C(token), C(password) or C(fernet)) and C(value). An empty value keeps the
        file's, or generates one where there is no file.
    type: dict
    required: true
  made:
    description: File that is there once the secrets were made, so that a missing C(fernet) key is a lost one.
    type: path
  step:
    description:
      - C(keep) what is there; C(rotate) makes new ones, except those that have a C(value), and keeps
        the old C(fernet) keys behind the new one for reading; C(settle) forgets them.
    type: str
    default: keep
    choices: [keep, rotate, settle]
author: Airstrip
"""

EXAMPLES = r"""
- name: Keep the secrets
  secret_files:
    directory: /etc/airflow/secrets
    secrets:
      jwt_secret: {kind: token, value: ""}
  no_log: true
"""

RETURN = r"""
conflicts:
  description: Encryption keys of which another one is in use; nothing was written.
  type: list
  returned: always
secrets:
  description: Name to value.
  type: dict
  returned: always
"""

import base64
import os
import secrets
import stat

from ansible.module_utils.basic import AnsibleModule

GENERATORS = {
    "token": lambda: secrets.token_hex(32),
    "password": lambda: secrets.token_urlsafe(18),
    "fernet": lambda: base64.urlsafe_b64encode(os.urandom(32)).decode(),
}


def read(path: str) -> str | None:
    """The file's content, or nothing where there is no file."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read().strip()
    except FileNotFoundError:
        return None


def closed(path: str, mode: int) -> bool:
    """Whether the path is root's alone, with that very mode."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return False
    return (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, mode)


def close(path: str, mode: int) -> None:
    os.chown(path, 0, 0)
    os.chmod(path, mode)


def sync(directory: str) -> None:
    """Have the names in a folder outlive a power cut too."""
    folder = os.open(directory, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def wanted(secret: dict[str, str], kept: str | None, step: str) -> str:
    """What a secret's file should hold; an encryption key may have older ones behind it, only to decrypt."""
    given, make = secret["value"], GENERATORS[secret["kind"]]
    if secret["kind"] != "fernet" or not kept:
        return given or (kept if step != "rotate" else None) or make()
    first, *older = kept.split(",")
    if step == "settle":
        return first
    if step == "rotate" and (given or first) == first and not older:
        return kept if given else f"{make()},{kept}"
    return kept if given in {"", first} else f"{given},{kept}"


def conflicting(
    secrets: dict[str, dict[str, str]], kept: dict[str, str | None], step: str, made: bool = False
) -> list[str]:
    """Names of encryption keys that are lost, or for which another was given."""
    keys = [name for name, secret in secrets.items() if secret["kind"] == "fernet"]
    lost = [name for name in keys if not kept[name] and not secrets[name]["value"] and (made or any(kept.values()))]
    others = [
        name for name in keys if kept[name] is not None and secrets[name]["value"] not in {"", kept[name].split(",")[0]}
    ]
    return lost + (others if step == "keep" else [])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "secrets": {"type": "dict", "required": True, "no_log": True},
            "made": {"type": "path"},
            "step": {"default": "keep", "choices": ["keep", "rotate", "settle"]},
        },
        supports_check_mode=True,
    )
    directory, step = module.params["directory"], module.params["step"]
    values, changed = {}, []
    before = {name: read(os.path.join(directory, name)) for name in module.params["secrets"]}
    made = bool(module.params["made"]) and os.path.exists(module.params["made"])
    if conflicts := conflicting(module.params["secrets"], before, step, made):
        # This task's output is hidden, so it does not fail: the next one explains.
        module.exit_json(changed=False, conflicts=conflicts, secrets={})
    if not closed(directory, 0o700):
        changed.append(directory)
        if not module.check_mode:
            os.makedirs(directory, exist_ok=True)
            close(directory, 0o700)
    for name, secret in module.params["secrets"].items():
        path = os.path.join(directory, name)
        values[name] = wanted(secret, before[name], step)
        if before[name] == values[name] and closed(path, 0o600):
            continue
        changed.append(path)
        if module.check_mode:
            continue
        with open(path + ".new", "w", encoding="utf-8", opener=lambda p, flags: os.open(p, flags, 0o600)) as stream:
            stream.write(values[name])
            stream.flush()
            os.fsync(stream.fileno())
        close(path + ".new", 0o600)
        os.replace(path + ".new", path)
    if changed and not module.check_mode:
        sync(directory)
    module.exit_json(changed=bool(changed), conflicts=[], secrets=values)


if __name__ == "__main__":
    main()
