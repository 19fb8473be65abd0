"""The lab's own certificate authority, which every machine of the lab trusts."""

from __future__ import annotations

from pathlib import Path

import trustme

from lab.network import DOMAIN
from lab.settings import Lab


def authority(lab: Lab) -> Path:
    """The certificate of the lab's own authority."""
    return lab.certificates / "ca.pem"


def up(lab: Lab) -> None:
    """Make the authority, and the certificate of the services."""
    folder = lab.certificates
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_key = folder / "ca.key"
    if not ca_key.exists():
        ca = trustme.CA(organization_name=f"Airstrip lab {lab.name}")
        ca.cert_pem.write_to_path(authority(lab))
        ca.private_key_pem.write_to_path(ca_key)
    certify(lab, "services", [lab.gateway, f"lab.{DOMAIN}", "lab", "localhost"])
    for key in folder.glob("*.key"):
        key.chmod(0o600)


def certify(lab: Lab, name: str, identities: list[str]) -> None:
    """Issue a certificate of the lab's authority, unless there is one."""
    file = lab.certificates / f"{name}.pem"
    if file.exists():
        return
    ca = trustme.CA.from_pem(authority(lab).read_bytes(), (lab.certificates / "ca.key").read_bytes())
    certificate = ca.issue_cert(*identities)
    certificate.private_key_pem.write_to_path(file.with_suffix(".key"))
    file.with_suffix(".key").chmod(0o600)
    file.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
