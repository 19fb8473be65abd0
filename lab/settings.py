"""What a lab is called, where it lives and which addresses it uses."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

SUITES = {"12": "bookworm", "13": "trixie"}
ARCHITECTURE = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
ACCOUNT = "123456789012"
REGION = "eu-central-1"
CACHE = Path("/var/cache/airstrip")
STATE = Path("/var/lib/airstrip")
BUCKET = "airstrip-lab"
USERNAMES = ["ada_airfield", "runway_rita", "tower_tom"]
AWS_PORT = 8300
METADATA_PORT = 8301
S3_PORT = 8333
X_API_PORT = 8443
SMTP_PORT = 2525
ORDERS_PORT = 5433
RATES_PORT = 8444
BIGQUERY_PORT = 9050


class LabError(Exception):
    """An error that the user can fix; the message says how."""


@dataclass(frozen=True)
class Lab:
    """A lab. Two labs on one machine differ in name and in subnet."""

    name: str = field(default_factory=lambda: os.environ.get("LAB_NAME", "airstrip"))
    subnet: IPv4Network = field(default_factory=lambda: IPv4Network(os.environ.get("LAB_SUBNET", "10.203.0.0/24")))
    # Where the business report keeps its sales: postgres or bigquery.
    warehouse: str = field(default_factory=lambda: os.environ.get("LAB_WAREHOUSE") or "postgres")

    def __post_init__(self) -> None:
        if not self.name.isalnum() or len(self.name) > 9:
            raise LabError(f"LAB_NAME={self.name}: use at most 9 letters and digits, e.g. LAB_NAME=airstrip2")
        if self.warehouse not in ("postgres", "bigquery"):
            raise LabError(f"LAB_WAREHOUSE={self.warehouse}: use postgres or bigquery")
        if self.subnet.prefixlen != 24:
            raise LabError(f"LAB_SUBNET={self.subnet}: use a network of 256 addresses, e.g. LAB_SUBNET=10.204.0.0/24")

    @property
    def environment(self) -> dict[str, str]:
        """The environment of this lab's processes."""
        return {"LAB_NAME": self.name, "LAB_SUBNET": str(self.subnet)}

    @property
    def number(self) -> int:
        """One of 512 numbers; labs with neighbouring subnets get different ones."""
        return int(self.subnet.network_address) // 256 % 512

    @property
    def public_subnet(self) -> IPv4Network:
        """The public addresses, from RFC 2544's range for tests."""
        return list(IPv4Network("198.18.0.0/15").subnets(new_prefix=24))[self.number]

    @property
    def state(self) -> Path:
        return STATE / self.name

    @property
    def bridge(self) -> str:
        return self.name

    @property
    def gateway(self) -> str:
        """The lab's own address: the router of the instances, AWS and the X API."""
        return str(self.subnet.network_address + 1)

    @property
    def private_key(self) -> Path:
        return self.state / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.state / "known_hosts"

    @property
    def inventory(self) -> Path:
        return self.state / "inventory"

    @property
    def certificates(self) -> Path:
        return self.state / "certificates"

    @property
    def instances(self) -> Path:
        return self.state / "instances"
