"""What a lab is called, where it lives and which addresses it uses."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

SUITES = {"bookworm": 12, "trixie": 13}
CACHE = Path("/var/cache/airstrip")
STATE = Path("/var/lib/airstrip")
BUCKET = "airstrip-lab"
USERNAMES = ["ada_airfield", "runway_rita", "tower_tom"]
S3_PORT = 8333
X_API_PORT = 8443


class LabError(Exception):
    """Something the person at the keyboard can mend; the message says how."""


@dataclass(frozen=True)
class Instance:
    """One machine of the lab: a name, a Debian suite and an address on the bridge."""

    name: str
    suite: str
    address: str


@dataclass(frozen=True)
class Lab:
    """A lab. Two labs on one machine differ in name and in subnet."""

    name: str = field(default_factory=lambda: os.environ.get("LAB_NAME", "airstrip"))
    subnet: IPv4Network = field(default_factory=lambda: IPv4Network(os.environ.get("LAB_SUBNET", "10.203.0.0/24")))
    suites: tuple[str, ...] = field(default_factory=lambda: tuple(os.environ.get("LAB_SUITES", "trixie").split(",")))

    def __post_init__(self) -> None:
        if not self.name.isalnum() or len(self.name) > 9:
            raise LabError(f"LAB_NAME={self.name}: use at most 9 letters and digits, e.g. LAB_NAME=airstrip2")
        unknown = set(self.suites) - set(SUITES)
        if unknown:
            raise LabError(
                f"LAB_SUITES={','.join(self.suites)}: choose from {', '.join(SUITES)}, e.g. LAB_SUITES=trixie,bookworm"
            )

    @property
    def state(self) -> Path:
        return STATE / self.name

    @property
    def bridge(self) -> str:
        return self.name

    @property
    def gateway(self) -> str:
        """The lab's own address, where the instances find S3 and the X API."""
        return str(self.subnet.network_address + 1)

    @property
    def instances(self) -> list[Instance]:
        """One instance a suite, named by its Debian version."""
        return [
            Instance(f"debian{SUITES[suite]}", suite, str(self.subnet.network_address + SUITES[suite]))
            for suite in self.suites
        ]

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
