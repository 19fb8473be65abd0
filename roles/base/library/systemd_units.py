#!/usr/bin/python
"""Keep systemd units enabled and running, all in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: systemd_units
short_description: Keep systemd units enabled and running
description:
  - Looks at all units at once, then enables and starts those that are not.
  - Reads unit files again where systemd says that they changed on disk.
options:
  names:
    description: Units; a list of two is a pair of which one must be enabled and running.
    type: list
    elements: list
    required: true
  newer_than:
    description:
      - Files and links that the units read when they start, with C(*) for many. Units that started before
        the newest of them was written are restarted; so the next run completes one that was cut off
        between the two.
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
  systemd_units:
    names: [nginx.service, [server@a.service, server@b.service]]
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
import subprocess
from datetime import UTC, datetime

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.systemd import RUNNING, properties

PROPERTIES = ["Id", "ActiveState", "UnitFileState", "NeedDaemonReload", "InactiveExitTimestamp"]
# "static" units have nothing to enable.
ENABLED = {"enabled", "enabled-runtime", "static", "alias", "generated", "indirect"}


def moment(text: str) -> float:
    """Seconds since 1970 of what systemd says, which is nothing for a unit that never ran."""
    began = datetime.strptime(text, "%a %Y-%m-%d %H:%M:%S.%f %Z").replace(tzinfo=UTC) if text else None
    return began.timestamp() if began else 0


def carry_out(module: AnsibleModule, steps: list[tuple[list[str], list[str]]]) -> list[str]:
    """Run commands on the units behind them; return the lines that they printed."""
    said: list[str] = []
    for command, units in steps:
        code, out, err = module.run_command([*command, *units])
        said += out.splitlines()
        if code:
            fix = f"look at: journalctl -eu {' -u '.join(units)}"
            module.fail_json(msg=f"{' '.join(command + units)}: {err.strip()}; {fix}")
    return said


def read(module: AnsibleModule, units: list[str]) -> dict[str, dict[str, str]]:
    """Return the properties of each unit, once systemd has read its file."""
    if not units:
        # systemctl would show its own.
        return {}
    try:
        states = dict(zip(units, properties(units, PROPERTIES), strict=True))
    except subprocess.CalledProcessError as error:
        module.fail_json(msg=f"systemctl show said: {error.stderr.strip()}")
    if any(state["NeedDaemonReload"] == "yes" for state in states.values()) and not module.check_mode:
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
        states = dict(zip(units, properties(units, PROPERTIES), strict=True))
    return states


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "list", "required": True},
            "newer_than": {"type": "list", "elements": "str", "default": []},
            "restart_with": {"type": "list", "elements": "str"},
            "others": {"type": "list", "elements": "str", "default": []},
            "stopped": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    given = module.params
    pairs = given["names"] + [[unit] for unit in given["others"]]
    flat = [unit for pair in pairs for unit in pair] + given["stopped"]
    states = read(module, flat)

    def running(unit: str) -> bool:
        return states[unit]["ActiveState"] in RUNNING

    newest = max((os.lstat(path).st_mtime for name in given["newer_than"] for path in glob.glob(name)), default=0)

    def stale(unit: str) -> bool:
        return moment(states[unit]["InactiveExitTimestamp"]) < newest

    def enabled(unit: str) -> bool:
        return states[unit]["UnitFileState"] == "enabled"

    # Of a pair take the one that runs, else the one that would run after a boot, else the first.
    chosen = [min(pair, key=lambda unit: (not running(unit), not enabled(unit))) for pair in pairs]
    enable = [unit for unit in chosen if states[unit]["UnitFileState"] not in ENABLED]
    start = [unit for unit in chosen if not running(unit)]
    restart = [unit for unit in chosen[: len(given["names"])] if running(unit) and stale(unit)]
    stop = [unit for unit in given["stopped"] if running(unit) or enabled(unit)]
    steps = (
        (["systemctl", "disable", "--now"], stop),
        (["systemctl", "enable"], enable),
        # First, so that what starts finds the others as they should be.
        (given["restart_with"] or ["systemctl", "restart"], restart),
        (["systemctl", "start"], start),
    )
    said = [] if module.check_mode else carry_out(module, [step for step in steps if step[1]])
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
