"""The lab's network: a bridge on which this machine is the router, with NAT, DHCP and names."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from lab.run import process, run, start, stop, wait_for
from lab.settings import METADATA_PORT, REGION, Lab, LabError

DOMAIN = f"{REGION}.compute.internal"


def up(lab: Lab) -> None:
    """Make the bridge and its name server; take over what an earlier run left."""
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
    wait_for("dnsmasq", lambda: "started" in pid_file.with_suffix(".log").read_text(), 10, pid_file.with_suffix(".log"))


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
        # It keeps the earlier owner's lease in memory, and would refuse the address to the new one.
        stop(folder / "process.pid")
        _names(lab)
    elif server := process(folder / "process.pid"):
        server.send_signal(signal.SIGHUP)


def filter_traffic(lab: Lab, groups: dict[str, list[str]], public: dict[str, str]) -> None:
    """Let in what the security groups admit and nothing else.

    `groups` has the accepted traffic of each private address as nft matches; `public` maps public to private addresses.
    """
    table = f"airstrip_{lab.name}"
    addresses = ", ".join(f"{outside} : {inside}" for outside, inside in public.items())
    chains = "".join(
        f"chain to_{address.replace('.', '_')} {{\n" + "".join(f"{match} accept\n" for match in matches) + "}\n"
        for address, matches in groups.items()
    )
    jumps = ", ".join(f"{address} : jump to_{address.replace('.', '_')}" for address in groups)
    run(
        *["nft", "-f", "-"],
        stdin=f"""
        table ip {table}
        delete table ip {table}
        table ip {table} {{
          map public {{
            type ipv4_addr : ipv4_addr
            {f"elements = {{ {addresses} }}" if addresses else ""}
          }}
          chain prerouting {{
            type nat hook prerouting priority dstnat;
            iifname {lab.bridge} ip daddr 169.254.169.254 tcp dport 80 dnat to {lab.gateway}:{METADATA_PORT}
            dnat to ip daddr map @public
          }}
          chain output_nat {{
            type nat hook output priority -100;
            dnat to ip daddr map @public
          }}
          chain postrouting {{
            type nat hook postrouting priority srcnat;
            ip saddr {lab.subnet} oifname != {lab.bridge} masquerade
          }}
          {chains}
          chain instances {{
            ct state established,related accept
            udp sport 67 udp dport 68 ip saddr {lab.gateway} accept
            {f"ip daddr vmap {{ {jumps} }}" if jumps else ""}
            drop
          }}
          chain input {{
            type filter hook input priority filter;
            # Behind the S3 store's own door its parts ask for no key.
            iifname {lab.bridge} tcp dport {{ 9333, 9340, 20000-25999 }} drop
          }}
          chain forward {{
            type filter hook forward priority filter;
            ip daddr {lab.subnet} jump instances
          }}
          chain output {{
            type filter hook output priority filter;
            ip daddr {lab.gateway} accept
            ip daddr {lab.subnet} jump instances
          }}
        }}
        """,
    )


def down(lab: Lab) -> None:
    """Take away the bridge and the rules of this lab."""
    for command in (
        ["nft", "delete", "table", "ip", f"airstrip_{lab.name}"],
        ["ip", "link", "delete", lab.bridge],
    ):
        subprocess.run(command, capture_output=True, check=False)
