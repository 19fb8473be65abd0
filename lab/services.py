"""What the instances reach on the lab's own address: AWS with its S3 store, the X API stand-in, a mail server."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import socket
import ssl
import sys
import sysconfig
from pathlib import Path
from typing import Any

import boto3
import requests
import trustme
from botocore.exceptions import ClientError

from lab.run import run, start, wait_for
from lab.settings import (
    ACCOUNT,
    AWS_PORT,
    BIGQUERY_PORT,
    RATES_PORT,
    REGION,
    S3_PORT,
    SMTP_PORT,
    X_API_PORT,
    Lab,
    LabError,
)

ROOT = Path(__file__).parent.parent
BIGQUERY_PROJECT = "lab"

# The store knows one role, which may do all; each session of it is narrowed to the policies of an instance's role.
STORE_ROLE = f"arn:aws:iam::{ACCOUNT}:role/instance"


def up(lab: Lab) -> None:
    """Start all services."""
    _certificates(lab)
    _s3(lab)
    _aws(lab)
    _x_api(lab)
    smtp(lab)
    _rates(lab)


def authority(lab: Lab) -> Path:
    """The certificate of the lab's own authority."""
    return lab.certificates / "ca.pem"


def s3_endpoint(lab: Lab) -> str:
    return f"https://{lab.gateway}:{S3_PORT}"


def x_api_endpoint(lab: Lab) -> str:
    return f"https://{lab.gateway}:{X_API_PORT}"


def rates_endpoint(lab: Lab) -> str:
    return f"https://{lab.gateway}:{RATES_PORT}"


def bigquery_endpoint(lab: Lab) -> str:
    return f"http://{lab.gateway}:{BIGQUERY_PORT}"


def aws_endpoint(lab: Lab) -> str:
    return f"https://{lab.gateway}:{AWS_PORT}"


def operator_keys(lab: Lab) -> dict[str, str]:
    """The access key of the account's owner and its secret, made once."""
    return json.loads(_secret(lab, "aws/operator.json", lambda: json.dumps({"id": _word(20), "secret": _word(40)})))


def ambient() -> dict[str, str]:
    """This process's environment without what belongs to another AWS account."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


def operator_environment(lab: Lab) -> dict[str, str]:
    """The environment of the account owner's AWS tools: the AWS_ variables are the only difference to AWS."""
    keys = operator_keys(lab)
    return {
        **ambient(),
        "AWS_ENDPOINT_URL": aws_endpoint(lab),
        "AWS_CA_BUNDLE": str(authority(lab)),
        "AWS_ACCESS_KEY_ID": keys["id"],
        "AWS_SECRET_ACCESS_KEY": keys["secret"],
        "AWS_DEFAULT_REGION": REGION,
    }


def client(lab: Lab, service: str):
    """The owner's boto3 client for one service of the lab's AWS; S3 and its sessions are the store's."""
    keys = operator_keys(lab)
    return boto3.client(
        service,
        endpoint_url=s3_endpoint(lab) if service in {"s3", "sts"} else aws_endpoint(lab),
        region_name=REGION,
        aws_access_key_id=keys["id"],
        aws_secret_access_key=keys["secret"],
        verify=str(authority(lab)),
    )


def instance(lab: Lab, stack: str) -> dict[str, Any]:
    """The running instance of a stack as EC2 describes it."""
    filters = [{"Name": "tag:airstrip", "Values": [stack]}, {"Name": "instance-state-name", "Values": ["running"]}]
    found = client(lab, "ec2").describe_instances(Filters=filters)["Reservations"]
    if not found:
        raise LabError(f"no instance of {stack} runs: run `make lab`")
    return found[0]["Instances"][0]


def x_bearer_token(lab: Lab) -> str:
    """The token that the X API stand-in accepts, made once."""
    return _secret(lab, "x_api/bearer_token", lambda: _word(40))


def orders_password(lab: Lab) -> str:
    """The password of the one who may read the shop's orders, made once."""
    return _secret(lab, "orders_password", lambda: _word(32))


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
    if not ca_key.exists():
        ca = trustme.CA(organization_name=f"Airstrip lab {lab.name}")
        ca.cert_pem.write_to_path(authority(lab))
        ca.private_key_pem.write_to_path(ca_key)
    certify(lab, "services", [lab.gateway, "lab", "localhost"])
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


def listens(lab: Lab, port: int) -> bool:
    """Whether a service of the lab answers there under the lab's certificate."""
    context = ssl.create_default_context(cafile=str(authority(lab)))
    try:
        plain = socket.create_connection((lab.gateway, port), timeout=2)
        with plain, context.wrap_socket(plain, server_hostname=lab.gateway):
            return True
    except OSError:
        return False


def accepts(lab: Lab, port: int) -> bool:
    """Whether a service of the lab that speaks no TLS accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((lab.gateway, port), timeout=2):
        return True
    return False


def _s3(lab: Lab) -> None:
    folder = lab.state / "s3"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    keys = operator_keys(lab)
    credentials = [{"accessKey": keys["id"], "secretKey": keys["secret"]}]
    # An instance's own session must not open another, wider one.
    owner = {"AWS": "arn:aws:iam::000000000000:user/operator"}
    trust = [{"Effect": "Allow", "Principal": owner, "Action": ["sts:AssumeRole"]}]
    everything = [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]}]
    configuration = {
        "identities": {"identities": [{"name": "operator", "credentials": credentials, "actions": ["Admin"]}]},
        "roles": {
            "sts": {
                "tokenDuration": "1h",
                "maxSessionLength": "12h",
                "issuer": "lab",
                "signingKey": base64.b64encode(_secret(lab, "s3/signing", lambda: _word(32)).encode()).decode(),
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
    for name, content in configuration.items():
        (folder / f"{name}.json").touch(mode=0o600)
        (folder / f"{name}.json").write_text(json.dumps(content))
    # Without a key of its own the store refuses to encrypt a bucket.
    (folder / "security.toml").touch(mode=0o600)
    (folder / "security.toml").write_text(f'[s3.sse]\nkek = "{_secret(lab, "s3/kek", lambda: _word(64))}"\n')
    # Ports name sockets in /tmp, which two labs' stores must not share.
    internal = {"master": 9333, "volume": 9340, "filer": 24000 + lab.number, "s3": 25000 + lab.number}
    grpc = {
        "master": 20000 + lab.number,
        "volume": 21000 + lab.number,
        "filer": 22000 + lab.number,
        "s3": 23000 + lab.number,
    }
    pid_file = folder / "process.pid"
    start(
        pid_file,
        [
            *[str(Path(sysconfig.get_path("scripts")) / "weed"), f"-config_dir={folder}", "server"],
            *[f"-dir={folder / 'data'}", f"-ip={lab.gateway}", f"-ip.bind={lab.gateway}"],
            *[f"-{name}.port={port}" for name, port in internal.items()],
            *[f"-{name}.port.grpc={port}" for name, port in grpc.items()],
            *["-volume.max=300", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"],
            *["-s3", f"-s3.port.https={S3_PORT}", "-s3.port.iceberg=0"],
            *[f"-s3.config={folder / 'identities.json'}", f"-s3.iam.config={folder / 'roles.json'}"],
            *[f"-s3.cert.file={lab.certificates / 'services.pem'}"],
            *[f"-s3.key.file={lab.certificates / 'services.key'}"],
        ],
    )
    log = pid_file.with_suffix(".log")
    wait_for("the S3 store", lambda: listens(lab, S3_PORT), 60, log)
    s3 = client(lab, "s3")

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


def _aws(lab: Lab) -> None:
    pid_file = lab.state / "aws" / "process.pid"
    start(pid_file, [sys.executable, "-m", "lab.ec2"], lab.environment)
    wait_for("AWS", lambda: listens(lab, AWS_PORT), 60, pid_file.with_suffix(".log"))


def _x_api(lab: Lab) -> None:
    x_bearer_token(lab)
    _web(lab, "x_api", X_API_PORT, "--token-file", str(lab.state / "x_api" / "bearer_token"))


def _rates(lab: Lab) -> None:
    _web(lab, "shop", RATES_PORT)


def _web(lab: Lab, name: str, port: int, *arguments: str) -> None:
    """Start a web server of the lab's own behind the lab's certificate."""
    pid_file = lab.state / name / "process.pid"
    certificate = ["--certificate", str(lab.certificates / "services.pem")]
    certificate += ["--key", str(lab.certificates / "services.key")]
    address = ["--address", lab.gateway, "--port", str(port)]
    start(pid_file, [sys.executable, "-m", f"lab.{name}", *address, *certificate, *arguments])
    wait_for(f"lab.{name}", lambda: listens(lab, port), 20, pid_file.with_suffix(".log"))


def bigquery(lab: Lab) -> None:
    """Start the emulator of BigQuery, from a virtualenv of its own."""
    python = ROOT / "build" / "bigquery" / "bin" / "python"
    if not python.exists():
        raise LabError("the emulator of BigQuery is missing: run `make build/bigquery/done`")
    # What the emulator would fetch from the internet at its start.
    run(python, "-c", 'from duckdb_extensions import import_extension; import_extension("spatial")')
    pid_file = lab.state / "bigquery" / "process.pid"
    address = [f"--rest-host={lab.gateway}", f"--rest-port={BIGQUERY_PORT}", f"--grpc-host={lab.gateway}"]
    start(pid_file, [str(python.with_name("bqemulator")), "start", *address, "--log-level=warning"])

    wait_for("BigQuery", lambda: accepts(lab, BIGQUERY_PORT), 60, pid_file.with_suffix(".log"))
    project = f"{bigquery_endpoint(lab)}/bigquery/v2/projects/{BIGQUERY_PROJECT}/datasets"
    reference = {"projectId": BIGQUERY_PROJECT, "datasetId": "report"}
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(project, json={"datasetReference": reference}, timeout=10)
    if answer.status_code not in (200, 409):
        raise LabError(f"BigQuery's emulator made no dataset: {answer.text[:500]}")


def mails(lab: Lab) -> Path:
    """The folder in which each mail that the lab's machines send becomes a file."""
    return lab.state / "smtp" / "mail" / "new"


def smtp_pid_file(lab: Lab) -> Path:
    """The file that names the mail server's process."""
    return lab.state / "smtp" / "process.pid"


def smtp(lab: Lab, largest_mail: int = 2**25) -> None:
    """Start the mail server, which refuses mails with more bytes."""
    pid_file = smtp_pid_file(lab)
    start(
        pid_file,
        [
            *[sys.executable, "-m", "aiosmtpd", "--nosetuid", "--listen", f"{lab.gateway}:{SMTP_PORT}"],
            *["--size", str(largest_mail), "--class", "aiosmtpd.handlers.Mailbox", str(lab.state / "smtp" / "mail")],
        ],
    )
    wait_for("the mail server", lambda: accepts(lab, SMTP_PORT), 20, pid_file.with_suffix(".log"))
