#!/usr/bin/python
"""Take a step of an update or a rollback with the host's own program."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Take a step of an update or a rollback with the host's own program
description:
  - Runs C(airstrip release STEP) on the host, and returns its answer. A lock spans the steps of a playbook.
  - An action plugin packs the code on the controller (C(pack)), sends the archive (C(stage)) and says whose run this
    is; so the module works in playbooks alone.
options:
  step:
    description:
      - C(pack) reads the code on the controller; C(stage) lays it out on the host, and examines it there if its
        packages are there; C(gate) examines it once they are; C(choose) picks an older release instead; C(switch)
        makes it live, and puts the one before back if Airflow does not take it; C(finish) prunes and unlocks;
        C(revert) goes back to what was live before and unlocks; C(lock) and C(unlock) keep other runs away from a
        host while more than its releases changes; C(history) says what was done.
    type: str
    choices: [pack, stage, gate, choose, switch, finish, revert, lock, unlock, history]
    required: true
  source:
    description: For C(pack), a folder on the controller with dags/, etl/ and plugins/, or a Git repository's address.
    type: str
  version:
    description: For C(pack), the branch or tag of a Git repository; by default its HEAD.
    type: str
    default: ""
  pack:
    description: For C(stage), what C(pack) returned.
    type: dict
  archive:
    description: The archive on the host. The action plugin sets it.
    type: path
  owner:
    description: Whose run this is. The action plugin sets it.
    type: dict
  root:
    description: Folder of the releases on the host. All steps but C(pack) need it.
    type: path
  release:
    description: Name of the release; for C(choose) empty means the one before the live one.
    type: str
    default: ""
  action:
    description: What the history calls it, C(update), C(rollback) or C(site).
    type: str
    default: update
  force:
    description: Whether C(stage) makes a release of code that is live already, so that every host has the same.
    type: bool
    default: false
  through:
    description:
      - For C(stage) and C(choose), whether to switch and finish too, since no other host has to be ready first.
      - Not where the packages of what was staged are missing.
    type: bool
    default: false
  virtualenv:
    description: Virtualenv that the release runs in, for C(stage).
    type: path
  components:
    description: Parts of Airflow on this host, for C(switch) and C(revert).
    type: list
    elements: str
  import_seconds:
    description: How long a DAG file may take to import.
    type: int
  import_mb:
    description: How many MB it may take.
    type: int
  live_seconds:
    description: How long Airflow may take to have the DAGs of a release.
    type: int
  keep:
    description: How many releases stay.
    type: int
  keep_mb:
    description: MB that those before the live one may take, with the virtualenvs that they alone need.
    type: int
  max_mb:
    description: MB that a release may have.
    type: int
  break_lock:
    description: Whether to go on although another run has the host.
    type: bool
    default: false
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
author: Airstrip
"""

EXAMPLES = r"""
- name: Make it live
  release:
    step: switch
    root: /srv/airflow
    release: 20261101T120000Z-0123456789ab
    components: [dag-processor]
    live_seconds: 60
"""

RETURN = r"""
release:
  description: Name of the release.
  type: str
  returned: for all steps but C(lock), C(unlock) and C(history)
ready:
  description: Whether the release has been examined; if not, its virtualenv must be made first.
  type: bool
  returned: for C(stage)
finished:
  description: Whether it is live and all is done, because of C(through).
  type: bool
  returned: for C(stage) and C(choose)
seconds:
  description: What each part took.
  type: dict
  returned: for C(stage), C(gate) and C(switch)
summary:
  description: What the release changes, or what became of it.
  type: str
  returned: for all steps but C(lock), C(unlock) and C(history)
said:
  description: What there is to know besides, a line each.
  type: list
  elements: str
  returned: for C(stage), C(gate), C(choose) and C(switch)
history:
  description: What was done, the oldest line first.
  type: list
  elements: str
  returned: for C(history)
"""

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

PROGRAMS = Path("/opt/airflow/airstrip")
COMMAND = PROGRAMS / "airstrip" / "release" / "command.py"
OLDER = "The host's own program is older than this checkout, or not there: run playbooks/site.yml"


def words(module: AnsibleModule) -> list[str]:
    """Return the command of a step."""
    given = {key: value for key, value in module.params.items() if value not in (None, "") and value is not False}
    command = ["/usr/bin/python3", "-P", "-m", "airstrip", "release", given.pop("step")]
    command += [given.pop("release")] if "release" in given else []
    for key, value in given.items():
        if key == "components":
            value = ",".join(value)
        if key == "owner":
            value = json.dumps(value)
        command.append(f"--{key.replace('_', '-')}" + ("" if value is True else f"={value}"))
    return command + ["--check"] * module.check_mode + ["--diff"] * module._diff


def main() -> None:
    """Take the step."""
    module = AnsibleModule(
        argument_spec={
            "step": {
                "type": "str",
                "required": True,
                "choices": ["stage", "gate", "choose", "switch", "finish", "revert", "lock", "unlock", "history"],
            },
            "root": {"type": "path", "required": True},
            "owner": {"type": "dict", "required": True},
            "archive": {"type": "path"},
            "release": {"type": "str", "default": ""},
            "action": {"type": "str", "default": "update"},
            "force": {"type": "bool", "default": False},
            "through": {"type": "bool", "default": False},
            "virtualenv": {"type": "path"},
            "components": {"type": "list", "elements": "str"},
            "import_seconds": {"type": "int"},
            "import_mb": {"type": "int"},
            "live_seconds": {"type": "int"},
            "keep": {"type": "int"},
            "keep_mb": {"type": "int"},
            "max_mb": {"type": "int"},
            "break_lock": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if not COMMAND.exists():
        if module.check_mode:
            module.exit_json(changed=True, release="", ready=False, summary="the first release")
        module.fail_json(msg=OLDER)
    code, out, err = module.run_command(words(module), environ_update={"PYTHONPATH": str(PROGRAMS)})
    try:
        answer = json.loads(out)
    except ValueError:
        module.fail_json(msg=OLDER if code == 2 else f"airstrip release said: {(err or out).strip()[-3000:]}")
    if "refused" in answer:
        module.fail_json(msg=answer.pop("refused"), **answer)
    module.exit_json(**{"changed": False, **answer})


if __name__ == "__main__":
    main()
