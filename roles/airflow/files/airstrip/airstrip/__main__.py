"""`airstrip`: what an operator does on the host itself. Standard library only."""

from __future__ import annotations

import os
import sys

from airstrip import components
from airstrip.release import command as release
from airstrip.watch import command as watch
from airstrip.watch import heal, status, why

COMMANDS = {
    "ack": watch.ack,
    "check": watch.check,
    "heal": heal.main,
    "health": components.main,
    "release": release.main,
    "status": status.main,
    "watch": watch.watch,
    "why": why.main,
}


def main() -> int:
    """Hand the arguments to a command."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: airstrip {{{','.join(COMMANDS)}}} ...", file=sys.stderr)
        return 2
    # The firewall lets nobody else ask the API server past nginx.
    if os.getuid():
        print("airstrip: put sudo before the command", file=sys.stderr)
        return 2
    return COMMANDS[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
