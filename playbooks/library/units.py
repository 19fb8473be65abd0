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
  newer_than:
    description:
      - Files and links that the units read when they start, with C(*) for many. Units that started before
        the newest of them was written are restarted; so a run that was cut off between the two is made
        good by the next.
    type: list
    elements: str
    default: []
  restart_with:
    description: Command that restarts the units whose names follow it; C(systemctl restart) if not given.
    type: list
    elements: str
  others:
    description: Units that must be enabled and running and are never restarted, as targets and sockets.
    type: list
    elements: str
    default: []
  stopped:
    description: Units that must neither run nor be enabled.
    type: list
    elements: str
    default: []
author: Airstrip
"""

EXAMPLES = r"""
- name: Run the services
  units:
    names: [nginx.service, "server@a.service|server@b.service"]
"""

RETURN = r"""
said:
  description: What the commands printed, a line each.
  type: list
  returned: always
enabled:
  description: Units that were enabled.
  type: list
  returned: always
started:
  description: Units that were started or restarted.
  type: list
  returned: always
stopped:
  description: Units that were stopped and disabled.
  type: list
  returned: always
"""

import glob
import os
from datetime import UTC, datetime

from ansible.module_utils.basic import AnsibleModule

PROPERTIES = ["Id", "ActiveState", "UnitFileState", "NeedDaemonReload", "InactiveExitTimestamp"]
# "static" units have nothing to enable.
ENABLED = {"enabled", "enabled-runtime", "static", "alias", "generated", "indirect"}


def show(module: AnsibleModule, units: list[str]) -> list[dict[str, str]]:
    """The properties of the units, in their order."""
    command = ["systemctl", "show", "--timestamp=us+utc", f"--property={','.join(PROPERTIES)}", *units]
    _, out, _ = module.run_command(command, check_rc=True, environ_update={"LC_ALL": "C"})
    return [dict(line.split("=", 1) for line in block.splitlines()) for block in out.strip().split("\n\n")]


def moment(text: str) -> float:
    """Seconds since 1970 of what systemd says, which is nothing for a unit that never ran."""
    began = datetime.strptime(text, "%a %Y-%m-%d %H:%M:%S.%f %Z").replace(tzinfo=UTC) if text else None
    return began.timestamp() if began else 0


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "newer_than": {"type": "list", "elements": "str", "default": []},
            "restart_with": {"type": "list", "elements": "str"},
            "others": {"type": "list", "elements": "str", "default": []},
            "stopped": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    given = module.params
    pairs = [name.split("|") for name in given["names"] + given["others"]]
    flat = [unit for pair in pairs for unit in pair] + given["stopped"]
    states = dict(zip(flat, show(module, flat), strict=True))
    if any(state["NeedDaemonReload"] == "yes" for state in states.values()) and not module.check_mode:
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
        states = dict(zip(flat, show(module, flat), strict=True))

    def running(unit: str) -> bool:
        return states[unit]["ActiveState"] in {"active", "activating", "reloading"}

    newest = max((os.lstat(path).st_mtime for name in given["newer_than"] for path in glob.glob(name)), default=0)

    def stale(unit: str) -> bool:
        return moment(states[unit]["InactiveExitTimestamp"]) < newest

    # Of a pair the one that runs is meant, else the first.
    chosen = [next((unit for unit in pair if running(unit)), pair[0]) for pair in pairs]
    enable = [unit for unit in chosen if states[unit]["UnitFileState"] not in ENABLED]
    start = [unit for unit in chosen if not running(unit)]
    said: list[str] = []
    restart = [unit for unit in chosen[: len(given["names"])] if running(unit) and stale(unit)]
    stop = [unit for unit in given["stopped"] if running(unit) or states[unit]["UnitFileState"] == "enabled"]
    if not module.check_mode:
        steps = (
            (["systemctl", "disable", "--now"], stop),
            (["systemctl", "enable"], enable),
            (["systemctl", "start"], start),
            (given["restart_with"] or ["systemctl", "restart"], restart),
        )
        for command, units in steps:
            if not units:
                continue
            code, out, err = module.run_command([*command, *units])
            said += out.splitlines()
            if code:
                fix = f"look at: journalctl -eu {' -u '.join(units)}"
                module.fail_json(msg=f"{' '.join(command + units)}: {err.strip()}; {fix}")
    changes = {"enable": enable, "start": start, "restart": restart, "stop": stop}
    diff = "".join(f"{verb} {unit}\n" for verb, units in changes.items() for unit in units)
    module.exit_json(
        changed=bool(diff),
        enabled=enable,
        started=start + restart,
        stopped=stop,
        said=said,
        diff={"before": "", "after": diff},
    )


if __name__ == "__main__":
    main()
