"""The components of Airflow: `components.json` is the one table of them, which Ansible reads too.

Standard library only: it is the same whatever virtualenv is live.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Component:
    """One component.

    `group` is the inventory's group of the hosts that run it. Two `units` are a pair of which one runs, and
    `second_mb` is what the other takes in memory while it takes over. `beside` are units that go with it and are never
    restarted. `health` is its name in Airflow's own health check.
    """

    group: str
    units: list[str]
    second_mb: int = 0
    beside: tuple[str, ...] = ()
    health: str = ""
    port: int = 0

    @property
    def pair(self) -> bool:
        """Whether another one takes over at a restart."""
        return len(self.units) > 1


TABLE = {
    name: Component(**row) for name, row in json.loads(Path(__file__).with_name("components.json").read_text()).items()
}
# How long a restarted one may take to its first heartbeat.
HEALTHY_SECONDS = 120
API = f"http://127.0.0.1:{TABLE['api-server'].port}"
HEALTH = f"{API}/api/v2/monitor/health"


def sick(components: Collection[str] = (), seconds: float = 5) -> list[str]:
    """Return which components have no fresh heartbeat: of these, or of all that Airflow knows of.

    The metadata database is one of them. Without an answer in that many seconds, the API server is the sick one.
    """
    # Importing it takes longer than most steps of a release, few of which ask.
    import urllib.request

    try:
        with urllib.request.urlopen(HEALTH, timeout=seconds) as answer:
            states = json.load(answer)
    except (OSError, ValueError):
        return ["api-server"]
    names = {component.health: name for name, component in TABLE.items() if component.health}
    # The answer's status is 200 even when a component is sick; one that runs nowhere has no state.
    wanted = {"metadatabase", *(TABLE[name].health for name in components)} - {""}
    asked = wanted if components else {name for name, state in states.items() if state and state["status"]}
    return sorted(names.get(name, name) for name in asked if (states.get(name) or {}).get("status") != "healthy")


def wait_until_healthy(components: Collection[str], seconds: float = HEALTHY_SECONDS) -> list[str]:
    """Wait until no component is sick; return those that still are after so many seconds."""
    deadline = time.monotonic() + seconds
    while (found := sick(components)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """`airstrip health`: the answer in JSON, and 1 where one is sick."""
    parser = argparse.ArgumentParser(prog="airstrip health", description="Which components have no fresh heartbeat")
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="wait so long until all have one")
    parser.add_argument("components", nargs="*", metavar="COMPONENT", help=f"of {', '.join(TABLE)}; without, all")
    given = parser.parse_args(arguments)
    if unknown := set(given.components) - set(TABLE):
        parser.error(f"no component is called {', '.join(sorted(unknown))}")
    found = wait_until_healthy(given.components, given.wait)
    print(json.dumps({"sick": found}))
    if found:
        print(f"no heartbeat from {', '.join(found)}: journalctl -e -u 'airflow-*'", file=sys.stderr)
    return 1 if found else 0
