"""`python -m lab up | trade | run | ssh | result | down`: the lab from the command line."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
import sys
from datetime import UTC, datetime, timedelta

from lab import image, inventory, network, services
from lab import instance as machines
from lab.run import run, stop
from lab.settings import BUCKET, Lab, LabError
from lab.shop import database


def up(lab: Lab) -> None:
    """Open the lab: a network, an AWS account with nothing in it, and the X API."""
    if os.geteuid():
        raise LabError("the lab needs root (bridges, namespaces): run `sudo make lab`")
    for tool in ("systemd-nspawn", "mmdebstrap", "nft", "ip", "dnsmasq"):
        if not shutil.which(tool):
            raise LabError(f"{tool} is missing: run `make setup`")
    lab.instances.mkdir(parents=True, exist_ok=True)
    if not lab.private_key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", lab.name, "-f", lab.private_key)
    image.image("trixie")
    network.up(lab)
    services.up(lab)
    database.up(lab)
    inventory.write(lab)
    print(f"lab: AWS answers at {services.aws.endpoint(lab)}", flush=True)


def down(lab: Lab) -> None:
    """Stop and delete everything in the lab except the cached images and packages."""
    # Stop the hypervisor first: it would start the machines again.
    stop(lab.state / "aws" / "process.pid")
    for identity in machines.known(lab):
        machines.down(lab, identity)
    for pid_file in lab.state.rglob("*.pid"):
        # Their data is deleted next, and a clean stop of the S3 store takes half a minute.
        stop(pid_file, seconds=1)
    for socket in services.s3.sockets(lab):
        socket.unlink(missing_ok=True)
    network.down(lab)
    shutil.rmtree(lab.state, ignore_errors=True)


def environment(lab: Lab) -> dict[str, str]:
    """What makes the commands of the README reach the lab instead of AWS."""
    return {**services.aws.operator_environment(lab), "ANSIBLE_INVENTORY": str(inventory.path(lab))}


def ssh(lab: Lab, stack: str = "airstrip") -> list[str]:
    """The ssh command that reaches the stack's instance."""
    instance = services.aws.instance(lab, stack)
    options = [f"UserKnownHostsFile={lab.known_hosts}", "StrictHostKeyChecking=accept-new", "IdentitiesOnly=yes"]
    options += ["LogLevel=ERROR", f"HostKeyAlias={instance['InstanceId']}"]
    words = [word for option in options for word in ("-o", option)]
    return ["ssh", "-i", str(lab.private_key), *words, f"admin@{instance['PublicIpAddress']}"]


def trade(lab: Lab) -> None:
    """Let the shop do its trade for fourteen days, and deliver to S3; all but yesterday is in the warehouse."""
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=past) for past in range(1, 15)]
    database.sell(lab, BUCKET, *days)
    if lab.warehouse == "postgres":
        run(
            *ssh(lab),
            "sudo runuser -u postgres -- psql -qv ON_ERROR_STOP=1 warehouse",
            stdin=database.history(*days[1:]),
        )


def result(lab: Lab) -> None:
    """Print where to look: the UI, the user, the password, the newest day on S3, the newest report."""
    s3 = services.aws.client(lab, "s3")
    listing = s3.list_objects_v2(Bucket=BUCKET, Prefix="curated/x/posts/").get("Contents", [])
    days = [entry["Key"] for entry in listing if entry["Key"].endswith("_manifest.json")]
    if not days:
        raise LabError("no posts on S3 yet: run `make lab`")
    manifest = json.loads(s3.get_object(Bucket=BUCKET, Key=max(days))["Body"].read())
    objects = [entry["key"] for user in manifest["users"] for entry in user.get("objects", [])]
    text = s3.get_object(Bucket=BUCKET, Key=objects[0])["Body"].read().decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    print(f"UI        https://{services.aws.instance(lab, 'airstrip')['PublicIpAddress']}/")
    print("user      admin")
    print("password  make lab-ssh, then: sudo cat /etc/airflow/secrets/admin_password")
    print("playbooks make lab-shell, then: ansible-playbook playbooks/check.yml")
    print(f"posts     {manifest['rows']} of {manifest['day']}, bought for {manifest['usd']:.2f} USD")
    for key in objects:
        print(f"S3 key    s3://{BUCKET}/{key}")
    for row in rows[:6]:
        print("  " + " | ".join(cell.replace("\n", "\\n")[:40] for cell in row))
    listing = s3.list_objects_v2(Bucket=BUCKET, Prefix="curated/report/daily/").get("Contents", [])
    reports = [entry["Key"] for entry in listing if entry["Key"].endswith("report.txt")]
    if reports:
        newest = max(reports).removesuffix(".txt")
        page = lab.state / "report.html"
        page.write_bytes(s3.get_object(Bucket=BUCKET, Key=f"{newest}.html")["Body"].read())
        print(f"report    {page} (open it in a browser), of fourteen days; mails are in {services.mail.folder(lab)}")
        print(f"S3 key    s3://{BUCKET}/{newest}.html")
        text = s3.get_object(Bucket=BUCKET, Key=f"{newest}.txt")["Body"].read().decode()
        print("\n".join(f"  {line}" for line in text.splitlines()))


def main() -> int:
    """Run one command; a LabError becomes one line."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = {"up": up, "trade": trade, "down": down, "result": result}
    parser.add_argument("command", choices=[*commands, "run", "ssh", "machine"])
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    words = parser.parse_args()
    try:
        lab = Lab()
        match words.command:
            case "run":
                os.execvpe(words.arguments[0], words.arguments, environment(lab))
            case "ssh":
                command = ssh(lab)
                os.execvp(command[0], [*command, *words.arguments])
            case "machine":
                return machines.boot(lab, words.arguments[0])
            case _:
                commands[words.command](lab)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
