"""The S3 store, SeaweedFS, which enforces the policies of the account."""

from __future__ import annotations

import base64
import json
import sysconfig
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from lab.run import start, wait_for
from lab.services import aws
from lab.services.secret import secret, word
from lab.services.server import listens
from lab.settings import ACCOUNT, S3_PORT, Lab

# The store has one role, which may do anything; each of its sessions is limited to the policies of an instance's role.
STORE_ROLE = f"arn:aws:iam::{ACCOUNT}:role/instance"


def endpoint(lab: Lab) -> str:
    return f"https://{lab.gateway}:{S3_PORT}"


def pid_file(lab: Lab) -> Path:
    """The store's pid file."""
    return lab.state / "s3" / "process.pid"


def up(lab: Lab) -> None:
    """Start it, and wait until it answers."""
    folder = lab.state / "s3"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, content in _configuration(lab).items():
        (folder / f"{name}.json").touch(mode=0o600)
        (folder / f"{name}.json").write_text(json.dumps(content))
    # Without a key of its own the store refuses to encrypt a bucket.
    (folder / "security.toml").touch(mode=0o600)
    (folder / "security.toml").write_text(f'[s3.sse]\nkek = "{secret(lab, "s3/kek", lambda: word(64))}"\n')
    start(pid_file(lab), _command(lab, folder))
    log = pid_file(lab).with_suffix(".log")
    wait_for("the S3 store", lambda: listens(lab, S3_PORT), 60, log)
    s3 = aws.client(lab, "s3")

    def answers() -> bool:
        # The filer elects its leader some seconds after the port opens.
        try:
            s3.head_bucket(Bucket="elected")
        except ClientError as error:
            return error.response["ResponseMetadata"]["HTTPStatusCode"] < 500
        return True

    wait_for("the S3 store", answers, 60, log)


def sockets(lab: Lab) -> list[Path]:
    """What the store leaves in /tmp, named by the lab's own ports."""
    return list(Path("/tmp").glob(f"seaweedfs-*-2[0-5]{lab.number:03}.sock"))


def _configuration(lab: Lab) -> dict[str, dict[str, Any]]:
    """Return the contents of the store's files, by name: who may do what."""
    keys = aws.operator_keys(lab)
    credentials = [{"accessKey": keys["id"], "secretKey": keys["secret"]}]
    # An instance's own session must not open another, wider one.
    owner = {"AWS": "arn:aws:iam::000000000000:user/operator"}
    trust = [{"Effect": "Allow", "Principal": owner, "Action": ["sts:AssumeRole"]}]
    everything = [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]}]
    return {
        "identities": {"identities": [{"name": "operator", "credentials": credentials, "actions": ["Admin"]}]},
        "roles": {
            "sts": {
                "tokenDuration": "1h",
                "maxSessionLength": "12h",
                "issuer": "lab",
                "signingKey": base64.b64encode(secret(lab, "s3/signing", lambda: word(32)).encode()).decode(),
            },
            "policy": {"defaultEffect": "Deny", "storeType": "memory"},
            "roleStore": {"storeType": "memory"},
            "policies": [{"name": "everything", "document": {"Version": "2012-10-17", "Statement": everything}}],
            "roles": [
                {
                    "roleName": "instance",
                    "roleArn": STORE_ROLE,
                    "trustPolicy": {"Version": "2012-10-17", "Statement": trust},
                    "attachedPolicies": ["everything"],
                }
            ],
        },
    }


def _command(lab: Lab, folder: Path) -> list[str]:
    # Sockets in /tmp are named by port; two labs' stores must not share them.
    internal = {"master": 9333, "volume": 9340, "filer": 24000 + lab.number, "s3": 25000 + lab.number}
    grpc = {
        "master": 20000 + lab.number,
        "volume": 21000 + lab.number,
        "filer": 22000 + lab.number,
        "s3": 23000 + lab.number,
    }
    return [
        *[str(Path(sysconfig.get_path("scripts")) / "weed"), f"-config_dir={folder}", "server"],
        *[f"-dir={folder / 'data'}", f"-ip={lab.gateway}", f"-ip.bind={lab.gateway}"],
        *[f"-{name}.port={port}" for name, port in internal.items()],
        *[f"-{name}.port.grpc={port}" for name, port in grpc.items()],
        *["-volume.max=300", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"],
        *["-s3", f"-s3.port.https={S3_PORT}", "-s3.port.iceberg=0"],
        *[f"-s3.config={folder / 'identities.json'}", f"-s3.iam.config={folder / 'roles.json'}"],
        *[f"-s3.cert.file={lab.certificates / 'services.pem'}"],
        *[f"-s3.key.file={lab.certificates / 'services.key'}"],
    ]
