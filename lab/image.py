"""The machine image: Debian as EC2 boots it, built once and cached."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from lab.run import run
from lab.settings import CACHE

PACKAGES = (
    "systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,python3,python3-apt,"
    "sudo,iproute2,ca-certificates,apt-utils"
)
TRUST = Path("/etc/ssl/certs/ca-certificates.crt")
# What Debian's EC2 images have: the user "admin" with sudo, a network by DHCP or file, no root login.
CUSTOMIZE = """set -eu
chroot "$1" useradd --create-home --shell /bin/bash admin
echo 'admin ALL=(ALL) NOPASSWD:ALL' > "$1/etc/sudoers.d/90-cloud-init-users"
chmod 0440 "$1/etc/sudoers.d/90-cloud-init-users"
rm -f "$1"/etc/ssh/ssh_host_* "$1/etc/machine-id"
touch "$1/etc/machine-id"
chroot "$1" systemctl enable systemd-networkd
chroot "$1" systemctl mask systemd-networkd-wait-online
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
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
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
            *["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}"],
            f"--customize-hook={CUSTOMIZE}",
            f"--customize-hook=copy-in {trust}/. /usr/local/share/ca-certificates/",
            '--customize-hook=chroot "$1" update-ca-certificates',
            *[suite, building],
        )
    building.rename(folder)
    return folder
