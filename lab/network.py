"""The lab's network: a bridge on which this machine is the router, with NAT, DHCP and names."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from lab.run import process, run, start, stop, wait_for
from lab.settings import METADATA_PORT, REGION, Lab, LabError
from lab.template import render

DOMAIN = f"{REGION}.compute.internal"


def up(lab: Lab) -> None:
    """Create the bridge and its name server; reuse what an earlier run left."""
    if not Path("/sys/class/net", lab.bridge).exists():
        for network in (lab.subnet, lab.public_subnet):
            routes = run("ip", "-4", "route", "show", "root", str(network))
            if routes.strip():
                raise LabError(f"{network} is in use here ({routes.strip()}): set LAB_SUBNET=10.204.0.0/24")
        run("ip", "link", "add", lab.bridge, "type", "bridge")
    run("ip", "addr", "replace", f"{lab.gateway}/{lab.subnet.prefixlen}", "dev", lab.bridge)
    run("ip", "link", "set", lab.bridge, "up")
    run("ip", "route", "replace", str(lab.public_subnet), "dev", lab.bridge)
    settings = Path("/proc/sys/net/ipv4")
    (settings / "ip_forward").write_text("1")
    # The instances see only the router, as in a VPC: it answers for their neighbours and filters what it passes on.
    (settings / "conf" / lab.bridge / "proxy_arp_pvlan").write_text("1")
    (settings / "conf" / lab.bridge / "send_redirects").write_text("0")
    _names(lab)


def _names(lab: Lab) -> None:
    folder = lab.state / "dnsmasq"
    for name in ("leases", "names"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "names" / "lab").write_text(f"{lab.gateway} lab.{DOMAIN}\n")
    pid_file = folder / "process.pid"
    start(
        pid_file,
        [
            *["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--log-facility=-"],
            *[f"--interface={lab.bridge}", "--bind-interfaces", "--except-interface=lo", "--no-hosts"],
            *[f"--dhcp-range={lab.subnet.network_address},static,{lab.subnet.netmask},infinite", "--leasefile-ro"],
            *[f"--dhcp-hostsdir={folder / 'leases'}", f"--hostsdir={folder / 'names'}", f"--domain={DOMAIN}"],
            "--dhcp-authoritative",
        ],
    )
    wait_for("dnsmasq", lambda: "started" in pid_file.with_suffix(".log").read_text(), 60, pid_file.with_suffix(".log"))


def name(lab: Lab, mac: str, address: str) -> None:
    """Give the owner of a MAC address its IP address and its name."""
    folder = lab.state / "dnsmasq"
    host = f"ip-{address.replace('.', '-')}"
    lease = folder / "leases" / host
    text = f"{mac},{address},{host},infinite\n"
    if lease.exists() and lease.read_text() == text:
        return
    had_an_owner = lease.exists()
    lease.write_text(text)
    (folder / "names" / host).write_text(f"{address} {host}.{DOMAIN}\n")
    if had_an_owner:
        # It keeps the old owner's lease in memory, and would refuse the new owner the address.
        stop(folder / "process.pid")
        _names(lab)
    elif server := process(folder / "process.pid"):
        server.send_signal(signal.SIGHUP)


def filter_traffic(lab: Lab, groups: dict[str, list[str]], public: dict[str, str]) -> None:
    """Let in only what the security groups admit.

    `groups` has the accepted traffic of each private address as nft matches; `public` maps public to private addresses.
    """
    rules = render("network.nft.j2", lab=lab, groups=groups, public=public, metadata_port=METADATA_PORT)
    run("nft", "-f", "-", stdin=rules)


def down(lab: Lab) -> None:
    """Delete the bridge and the rules of this lab."""
    for command in (
        ["nft", "delete", "table", "ip", f"airstrip_{lab.name}"],
        ["ip", "link", "delete", lab.bridge],
    ):
        subprocess.run(command, capture_output=True, check=False)
