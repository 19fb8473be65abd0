"""`python -m lab up | down | ssh | inventory | result`: the lab from the command line."""

from __future__ import annotations

import argparse
import csv
import io
import os
import shutil
import sys

from lab import instance as machines
from lab import inventory, network, services
from lab.run import run, stop
from lab.settings import BUCKET, Lab, LabError


def up(lab: Lab) -> None:
    """Boot everything that does not run yet."""
    if os.geteuid():
        raise LabError("the lab needs root (bridges, namespaces): run `sudo make lab`")
    for tool in ("systemd-nspawn", "mmdebstrap", "nft", "ip"):
        if not shutil.which(tool):
            raise LabError(f"{tool} is missing: run `make setup`")
    lab.state.mkdir(parents=True, exist_ok=True)
    if not lab.private_key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", lab.name, "-f", lab.private_key)
    network.up(lab)
    services.up(lab)
    for instance in lab.instances:
        machines.up(lab, instance)
        inventory.write(lab, instance)
        print(f"lab: {instance.name} answers at {instance.address}", flush=True)


def down(lab: Lab) -> None:
    """Stop and remove all that the lab made, except the cached images and packages."""
    for instance in Lab(lab.name, lab.subnet, ("bookworm", "trixie")).instances:
        machines.down(lab, instance)
    for pid_file in lab.state.rglob("*.pid"):
        stop(pid_file)
    network.down(lab)
    shutil.rmtree(lab.state, ignore_errors=True)


def show_inventory(lab: Lab) -> None:
    """Print the folder to give to `ansible-playbook -i`."""
    print(inventory.path(lab, lab.instances[0]))


def result(lab: Lab) -> None:
    """Print where to look: the UI, the user, the password, and the newest CSV on S3."""
    s3 = services.s3_client(lab)
    listing = s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    objects = [entry for entry in listing if entry["Key"].endswith(".csv")]
    if not objects:
        raise LabError("no CSV on S3 yet: run `make lab`")
    newest = max(objects, key=lambda entry: entry["LastModified"])
    text = s3.get_object(Bucket=BUCKET, Key=newest["Key"])["Body"].read().decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    instance = lab.instances[0]
    print(f"UI        https://{instance.address}/")
    print("user      admin")
    print("password  make lab-ssh, then: sudo cat /etc/airflow/secrets/admin_password")
    print(f"check     make lab-check, or: ansible-playbook -i {inventory.path(lab, instance)} playbooks/check.yml")
    print(f"S3 key    s3://{BUCKET}/{newest['Key']}  ({len(rows) - 1} posts)")
    for row in rows[:6]:
        print("  " + " | ".join(cell.replace("\n", "\\n")[:40] for cell in row))


def main() -> int:
    """Run one command; a LabError becomes one line."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = {"up": up, "down": down, "inventory": show_inventory, "result": result}
    parser.add_argument("command", choices=[*commands, "ssh", "machine"])
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    words = parser.parse_args()
    try:
        lab = Lab()
        if words.command == "ssh":
            os.execvp("ssh", [*machines.ssh(lab, lab.instances[0]), *words.arguments])
        if words.command == "machine":
            return machines.boot(lab, machines.named(lab, words.arguments[0]))
        commands[words.command](lab)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
