#!/usr/bin/python
"""Keep systemd units enabled and running, all in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: units
short_description: Keep systemd units enabled and running
description:
  - Looks at all units at once, then enables and starts those that are not.
  - Reads unit files again where systemd says that they changed on disk.
options:
  names:
    description: Units; C(a.service|b.service) is a pair of which one must be enabled and running.
    type: list
    elements: str
    required: true
  restart:
    description: Whether units that run already are restarted, in one transaction.
    type: bool
    default: false
author: Airstrip
"""

EXAMPLES = r"""
- name: Run the services
  units:
    names: [nginx.service, "server@a.service|server@b.service"]
"""

RETURN = r"""
enabled:
  description: Units that were enabled.
  type: list
  returned: always
started:
  description: Units that were started or restarted.
  type: list
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402 (Ansible wants the documentation first)

PROPERTIES = ["Id", "ActiveState", "UnitFileState", "NeedDaemonReload"]
# "static" units have nothing to enable.
ENABLED = {"enabled", "enabled-runtime", "static", "alias", "generated", "indirect"}


def show(module: AnsibleModule, units: list[str]) -> list[dict[str, str]]:
    """The properties of the units, in their order."""
    command = ["systemctl", "show", f"--property={','.join(PROPERTIES)}", *units]
    _, out, _ = module.run_command(command, check_rc=True)
    return [dict(line.split("=", 1) for line in block.splitlines()) for block in out.strip().split("\n\n")]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "restart": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    pairs = [name.split("|") for name in module.params["names"]]
    flat = [unit for pair in pairs for unit in pair]
    states = dict(zip(flat, show(module, flat), strict=True))
    if any(state["NeedDaemonReload"] == "yes" for state in states.values()) and not module.check_mode:
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
        states = dict(zip(flat, show(module, flat), strict=True))

    def running(unit: str) -> bool:
        return states[unit]["ActiveState"] in {"active", "activating", "reloading"}

    # Of a pair the one that runs is meant, else the first.
    chosen = [next((unit for unit in pair if running(unit)), pair[0]) for pair in pairs]
    enable = [unit for unit in chosen if states[unit]["UnitFileState"] not in ENABLED]
    start = [unit for unit in chosen if not running(unit) or module.params["restart"]]
    if not module.check_mode:
        for verb, units in (("enable", enable), ("restart", start)):
            if not units:
                continue
            code, _, err = module.run_command(["systemctl", verb, *units])
            if code:
                fix = f"look at: journalctl -eu {' -u '.join(units)}"
                module.fail_json(msg=f"systemctl {verb} {' '.join(units)}: {err.strip()}; {fix}")
    module.exit_json(changed=bool(enable or start), enabled=enable, started=start)


if __name__ == "__main__":
    main()
