"""`make bench`: measure the named groups; record the samples, compare, and write the tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Network

from lab import __main__ as commands
from lab.settings import Lab
from tests.bench import figures
from tests.bench.doors import doors
from tests.bench.etl import etl, report
from tests.bench.faults import faults
from tests.bench.installation import install, memory
from tests.bench.keep import keep
from tests.bench.releases import releases, restarts
from tests.bench.tasks import tasks
from tests.bench.watch import watch
from tests.server import Server

Samples = dict[str, list[float]]
ALONE: dict[str, Callable[[], Samples]] = {"etl": etl, "report": report}
# In this order on one machine: the first finds nothing on it.
ON_A_SERVER: dict[str, Callable[[Server], Samples]] = {
    "install": install,
    "memory": memory,
    "tasks": tasks,
    "faults": faults,
    "doors": doors,
    "releases": releases,
    "restarts": restarts,
    "watch": watch,
    "keep": keep,
}
# Without a name: what the README shows, and what belongs to it.
USUAL = ["install", "memory", "tasks", "faults", "releases", "restarts"]


def main(names: list[str]) -> None:
    """Measure group by group; what was measured is recorded even if the next one fails."""
    unknown = set(names) - {*ALONE, *ON_A_SERVER, "all"}
    if unknown:
        sys.exit(f"bench: no group {', '.join(unknown)}: NAME is all or one of {', '.join([*ON_A_SERVER, *ALONE])}")
    wanted = [*ALONE, *ON_A_SERVER] if "all" in names else names or USUAL
    for name, group in ALONE.items():
        if name in wanted:
            measure(name, group)
    if set(wanted) & set(ON_A_SERVER):
        on_a_server([name for name in ON_A_SERVER if name in wanted])
    figures.write_tables()
    print(figures.show())
    print("\n".join(["", "falls short:", *(figures.short() or ["nothing"])]))


def measure(name: str, group: Callable[[], Samples]) -> None:
    """Measure one group, record it, and say how long it took."""
    print(f"bench: {name}", flush=True)
    began = time.monotonic()
    figures.record(group())
    print(f"bench: {name} took {(time.monotonic() - began) / 60:.1f} minutes", flush=True)


def on_a_server(names: list[str]) -> None:
    """Measure the groups on a machine of their own."""
    lab = Lab("stripbnch", IPv4Network("10.203.2.0/24"))
    commands.down(lab)
    try:
        commands.up(lab)
        server = Server(lab, "airstrip")
        server.play("provision.yml")
        if names[0] != "install":
            server.play("site.yml")
        for name in names:
            measure(name, partial(ON_A_SERVER[name], server))
    finally:
        commands.down(lab)


if __name__ == "__main__":
    main(sys.argv[1:])
