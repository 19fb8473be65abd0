"""The public machine images of the lab's region."""

from __future__ import annotations

import re
from typing import Any

from lab.settings import ARCHITECTURE, SUITES

DEBIAN = "136693071363"


def images() -> list[dict[str, Any]]:
    """The public machine images: Debian's own, and one whose name only looks alike."""
    names = [f"debian-{version}-{kind}-20261005-2257" for version in SUITES for kind in ("amd64", "arm64")]
    found = [image(name, f"ami-0debian{number:010d}") for number, name in enumerate(names)]
    return [*found, image("debian-13-amd64-20991231-9999", "ami-0lookalike00000000", owner="999988887777")]


def image(name: str, identity: str, owner: str = DEBIAN) -> dict[str, Any]:
    """One machine image as moto reads it."""
    return {
        "ami_id": identity,
        "name": name,
        "owner_id": owner,
        "architecture": "arm64" if "-arm64-" in name else "x86_64",
        "root_device_name": "/dev/xvda",
        "root_device_type": "ebs",
        "virtualization_type": "hvm",
        "hypervisor": "xen",
        "image_location": f"{owner}/{name}",
        "public": True,
        "description": name,
    }


def bootable(name: str) -> str:
    """The Debian suite of an image that this machine can boot, or an empty text."""
    match = re.match(rf"debian-({'|'.join(SUITES)})-(\w+)-", name)
    architecture = {"amd64": "x86_64"}.get(match[2], match[2]) if match else ""
    return SUITES[match[1]] if match and architecture == ARCHITECTURE else ""
