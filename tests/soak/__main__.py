"""Run the groups that are named, or all."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tests.soak import code, faults, machines, peace, recovery, upgrades

GROUPS: dict[str, Callable[[], None]] = {
    "updates": machines.updates,
    "outages": machines.outages,
    "restarts": machines.restarts,
    "examples": machines.examples,
    "receipts": machines.receipts,
    "history": recovery.history,
    "restores": recovery.restores,
    "move": recovery.move,
    "disks": recovery.disk_full,
    "upgrades": upgrades.upgrades,
    "faults": faults.faults,
    "peace": peace.peace,
    "orders": code.orders,
    "mutants": code.mutants,
    "controllers": code.controllers,
}

for name in sys.argv[1:] or GROUPS:
    GROUPS[name]()
