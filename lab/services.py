"""What the instances reach on the lab's own address: an S3 store and the X API stand-in."""

from __future__ import annotations

import json
import secrets
import socket
import ssl
import sys
import sysconfig
from pathlib import Path

import boto3
import trustme
from botocore.exceptions import ClientError

from lab.run import start, wait_for
from lab.settings import BUCKET, S3_PORT, X_API_PORT, Lab


def up(lab: Lab) -> None:
    """Start both services and make the bucket."""
    _certificates(lab)
    _s3(lab)
    _x_api(lab)


def authority(lab: Lab) -> Path:
    """The certificate of the lab's own authority."""
    return lab.certificates / "ca.pem"


def s3_endpoint(lab: Lab) -> str:
    return f"https://{lab.gateway}:{S3_PORT}"


def x_api_endpoint(lab: Lab) -> str:
    return f"https://{lab.gateway}:{X_API_PORT}"


def s3_keys(lab: Lab, identity: str) -> dict[str, str]:
    """An access key and its secret, made once: of the `operator`, or of the `instance` for the bucket alone."""
    return json.loads(_secret(lab, f"s3/{identity}.json", lambda: json.dumps({"id": _word(20), "secret": _word(40)})))


def x_bearer_token(lab: Lab) -> str:
    """The token that the X API stand-in accepts, made once."""
    return _secret(lab, "x_api/bearer_token", lambda: _word(40))


def s3_client(lab: Lab):
    """The operator's boto3 client for the lab's store."""
    keys = s3_keys(lab, "operator")
    return boto3.client(
        "s3",
        endpoint_url=s3_endpoint(lab),
        region_name="eu-central-1",
        aws_access_key_id=keys["id"],
        aws_secret_access_key=keys["secret"],
        verify=str(authority(lab)),
    )


def _word(length: int) -> str:
    return secrets.token_hex(length // 2)


def _secret(lab: Lab, name: str, make) -> str:
    path = lab.state / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(make())
    return path.read_text()


def _certificates(lab: Lab) -> None:
    folder = lab.certificates
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_key = folder / "ca.key"
    if ca_key.exists():
        ca = trustme.CA.from_pem(authority(lab).read_bytes(), ca_key.read_bytes())
    else:
        ca = trustme.CA(organization_name=f"Airstrip lab {lab.name}")
        ca.cert_pem.write_to_path(authority(lab))
        ca.private_key_pem.write_to_path(ca_key)
    names = {"services": [lab.gateway, "lab", "localhost"]}
    names |= {instance.name: [instance.address, instance.name] for instance in lab.instances}
    for name, identities in names.items():
        if not (folder / f"{name}.key").exists():
            certificate = ca.issue_cert(*identities)
            (folder / f"{name}.pem").write_bytes(b"".join(b.bytes() for b in certificate.cert_chain_pems))
            certificate.private_key_pem.write_to_path(folder / f"{name}.key")
    for key in folder.glob("*.key"):
        key.chmod(0o600)


def listens(lab: Lab, port: int) -> bool:
    """Whether a service of the lab answers there under the lab's certificate."""
    context = ssl.create_default_context(cafile=str(authority(lab)))
    try:
        plain = socket.create_connection((lab.gateway, port), timeout=2)
        with plain, context.wrap_socket(plain, server_hostname=lab.gateway):
            return True
    except OSError:
        return False


def _s3(lab: Lab) -> None:
    folder = lab.state / "s3"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    actions = {"operator": ["Admin"], "instance": [f"{verb}:{BUCKET}" for verb in ("Read", "Write", "List")]}
    identities = []
    for name, allowed in actions.items():
        keys = s3_keys(lab, name)
        credentials = [{"accessKey": keys["id"], "secretKey": keys["secret"]}]
        identities.append({"name": name, "credentials": credentials, "actions": allowed})
    config = folder / "identities.json"
    config.touch(mode=0o600)
    config.write_text(json.dumps({"identities": identities}))
    # Ports name sockets in /tmp, which two labs' stores must not share.
    own = int(lab.subnet.network_address) // 256 % 1000
    internal = {"master": 9333, "volume": 9340, "filer": 24000 + own, "s3": 25000 + own}
    grpc = {"master": 20000 + own, "volume": 21000 + own, "filer": 22000 + own, "s3": 23000 + own}
    pid_file = folder / "process.pid"
    start(
        pid_file,
        [
            *[str(Path(sysconfig.get_path("scripts")) / "weed"), "server"],
            *[f"-dir={folder / 'data'}", f"-ip={lab.gateway}", f"-ip.bind={lab.gateway}"],
            *[f"-{name}.port={port}" for name, port in internal.items()],
            *[f"-{name}.port.grpc={port}" for name, port in grpc.items()],
            *["-volume.max=300", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"],
            *["-s3", f"-s3.port.https={S3_PORT}", "-s3.port.iceberg=0"],
            *[f"-s3.config={config}"],
            *[f"-s3.cert.file={lab.certificates / 'services.pem'}"],
            *[f"-s3.key.file={lab.certificates / 'services.key'}"],
        ],
    )
    log = pid_file.with_suffix(".log")
    wait_for("the S3 store", lambda: listens(lab, S3_PORT), 60, log)
    s3 = s3_client(lab)

    def bucket() -> bool:
        try:
            s3.create_bucket(Bucket=BUCKET)
        except s3.exceptions.BucketAlreadyOwnedByYou:
            pass
        except ClientError as error:
            if error.response["Error"]["Code"] == "BucketAlreadyExists":
                return True
            # The filer elects its leader some seconds after the port opens.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
                return False
            raise
        return True

    wait_for("the bucket", bucket, 60, log)


def _x_api(lab: Lab) -> None:
    x_bearer_token(lab)
    pid_file = lab.state / "x_api" / "process.pid"
    start(
        pid_file,
        [
            *[sys.executable, "-m", "lab.x_api", "--address", lab.gateway, "--port", str(X_API_PORT)],
            *["--certificate", str(lab.certificates / "services.pem")],
            *["--key", str(lab.certificates / "services.key")],
            *["--token-file", str(lab.state / "x_api" / "bearer_token")],
        ],
    )
    wait_for("the X API", lambda: listens(lab, X_API_PORT), 20, pid_file.with_suffix(".log"))
