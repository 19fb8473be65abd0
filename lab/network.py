"""The lab's network: one bridge, with NAT to wherever this machine can reach."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.run import run
from lab.settings import Lab, LabError


def nameservers() -> list[str]:
    """The resolvers of this machine that an instance can reach too."""
    for path in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        if path.exists():
            lines = [line.split() for line in path.read_text().splitlines()]
            found = [words[1] for words in lines if words[:1] == ["nameserver"]]
            usable = [address for address in found if not address.startswith(("127.", "::1"))]
            if usable:
                return usable
    raise LabError("no resolver but loopback in /etc/resolv.conf: add a 'nameserver ADDRESS' line to it")


def _exists(lab: Lab) -> bool:
    return Path("/sys/class/net", lab.bridge).exists()


def up(lab: Lab) -> None:
    """Make the bridge and its NAT; take over what an earlier run left."""
    if not _exists(lab):
        routes = run("ip", "-4", "route", "show", "root", str(lab.subnet))
        if routes.strip():
            raise LabError(f"{lab.subnet} is in use here ({routes.strip()}): set LAB_SUBNET=10.204.0.0/24")
        run("ip", "link", "add", lab.bridge, "type", "bridge")
    run("ip", "addr", "replace", f"{lab.gateway}/{lab.subnet.prefixlen}", "dev", lab.bridge)
    run("ip", "link", "set", lab.bridge, "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    table = f"airstrip_{lab.name}"
    run(
        *["nft", "-f", "-"],
        stdin=f"""
        table ip {table}
        delete table ip {table}
        table ip {table} {{
          chain postrouting {{
            type nat hook postrouting priority srcnat;
            ip saddr {lab.subnet} ip daddr != {lab.subnet} masquerade
          }}
        }}
        """,
    )


def down(lab: Lab) -> None:
    """Take away the bridge and the NAT of this lab."""
    for command in (
        ["nft", "delete", "table", "ip", f"airstrip_{lab.name}"],
        ["ip", "link", "delete", lab.bridge],
    ):
        subprocess.run(command, capture_output=True, check=False)
