"""`airstrip`: what an operator does on the host itself. Standard library only."""

from __future__ import annotations

import os
import sys
from importlib import import_module

# The module of each command, and its function. One is imported alone: the watch runs each minute.
COMMANDS = {
    "ack": ("watch.command", "ack"),
    "check": ("watch.command", "check"),
    "heal": ("watch.heal", "main"),
    "health": ("components", "main"),
    "release": ("release.command", "main"),
    "status": ("watch.status", "main"),
    "watch": ("watch.command", "watch"),
    "why": ("watch.why", "main"),
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
    module, function = COMMANDS[sys.argv[1]]
    return getattr(import_module(f"airstrip.{module}"), function)(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
