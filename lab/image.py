"""The machine images: Debian as EC2 boots it, built once and cached."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from lab.run import locked, run
from lab.settings import CACHE

PACKAGES = (
    "systemd,systemd-sysv,systemd-resolved,dbus,libpam-systemd,openssh-server,python3,python3-apt,"
    "sudo,iproute2,ca-certificates,apt-utils,cloud-init"
)
TRUST = Path("/etc/ssl/certs/ca-certificates.crt")
# What Debian's EC2 images have: an address by DHCP, the user "admin" with sudo by cloud-init, no root login.
CLOUD = """\
datasource_list: [Ec2]
datasource: {Ec2: {strict_id: false, metadata_urls: ["http://169.254.169.254"]}}
network: {config: disabled}
manage_etc_hosts: true
# Its hook for devices that come later wants udev, which a container does not run.
updates: {network: {when: [boot]}}
system_info:
  default_user: {name: admin, sudo: ["ALL=(ALL) NOPASSWD:ALL"], shell: /bin/bash, lock_passwd: true}
locale: false
apt: {preserve_sources_list: true}
"""
NETWORK = """\
[Match]
Type=ether

[Network]
DHCP=ipv4

[DHCPv4]
UseDomains=yes
"""
CUSTOMIZE = f"""set -eu
cat > "$1/etc/cloud/cloud.cfg.d/10_ec2.cfg" <<'END'
{CLOUD}END
cat > "$1/etc/systemd/network/10-ec2.network" <<'END'
{NETWORK}END
rm -f "$1"/etc/ssh/ssh_host_* "$1/etc/machine-id" "$1/etc/hostname" "$1/etc/resolv.conf"
touch "$1/etc/machine-id"
# cloud-init knows EC2 by the hypervisor's UUID, which a container cannot have. It also asks before the network is up,
# by a DHCP client of its own, which only costs time here.
source="$1/usr/lib/python3/dist-packages/cloudinit/sources/DataSourceEc2.py"
echo ec2e1916-9099-7caf-fd21-0123456789ab > "$1/etc/ec2-uuid"
sed -i 's|"/sys/hypervisor/uuid"|"/etc/ec2-uuid"|; /(DataSourceEc2Local, /d' "$source"
grep -q /etc/ec2-uuid "$source"
ln -s ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"
chroot "$1" systemctl enable systemd-networkd systemd-networkd-wait-online systemd-resolved
"""


def extra_authorities() -> list[str]:
    """This machine's own certificate authorities (a company's proxy has one), as PEM."""
    folder = Path("/usr/local/share/ca-certificates")
    found = {path.read_text() for path in folder.rglob("*.crt")} if folder.exists() else set()
    if not found and TRUST.exists():
        mozilla = "".join(p.read_text() for p in Path("/usr/share/ca-certificates").rglob("*.crt"))
        blocks = re.findall(r"-----BEGIN CERT.*?END CERTIFICATE-----\n", TRUST.read_text(), re.S)
        found = {block for block in blocks if block.strip() not in mozilla}
    return sorted(found)


def image(suite: str) -> Path:
    """Return the folder of the suite's image, building it where the cache has none."""
    authorities = extra_authorities()
    recipe = "\0".join([suite, PACKAGES, CUSTOMIZE, *authorities])
    folder = CACHE / "images" / f"{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    # If two labs start at once, the second finds the first one's image.
    with locked(folder.parent / f"{suite}.lock"):
        if not folder.exists():
            build(folder, suite, authorities)
    return folder


def build(folder: Path, suite: str, authorities: list[str]) -> None:
    """Build a suite's image that trusts more authorities; an interrupted build leaves no image."""
    for stale in folder.parent.glob(f"{suite}-*.building"):
        shutil.rmtree(stale)
    print(f"lab: building the Debian image {folder.name} (about a minute, once)", flush=True)
    with tempfile.TemporaryDirectory() as trust:
        # mmdebstrap's _apt user reads this folder.
        os.chmod(trust, 0o755)
        for number, pem in enumerate(authorities):
            (Path(trust) / f"lab-{number}.crt").write_text(pem)
        building = folder.with_suffix(".building")
        run(
            # Its mounts end with it, even if it is interrupted.
            *["unshare", "--mount", "mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}"],
            f"--customize-hook={CUSTOMIZE}",
            f"--customize-hook=copy-in {trust}/. /usr/local/share/ca-certificates/",
            '--customize-hook=chroot "$1" update-ca-certificates',
            *[suite, building],
        )
    building.rename(folder)
