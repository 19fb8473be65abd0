"""AWS, and the keys and tools of the account's owner."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import boto3

from lab.run import start, wait_for
from lab.services import certificates
from lab.services.secret import secret, word
from lab.services.server import listens
from lab.settings import AWS_PORT, REGION, S3_PORT, Lab, LabError


def up(lab: Lab) -> None:
    """Start it."""
    pid_file = lab.state / "aws" / "process.pid"
    start(pid_file, [sys.executable, "-m", "lab.ec2"], lab.environment)
    wait_for("AWS", lambda: listens(lab, AWS_PORT), 60, pid_file.with_suffix(".log"))


def endpoint(lab: Lab) -> str:
    return f"https://{lab.gateway}:{AWS_PORT}"


def operator_keys(lab: Lab) -> dict[str, str]:
    """The access key of the account's owner and its secret, made once."""
    return json.loads(secret(lab, "aws/operator.json", lambda: json.dumps({"id": word(20), "secret": word(40)})))


def ambient() -> dict[str, str]:
    """This process's environment without what belongs to another AWS account."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


def operator_environment(lab: Lab) -> dict[str, str]:
    """The environment of the account owner's AWS tools: only the AWS_ variables differ from AWS."""
    keys = operator_keys(lab)
    return {
        **ambient(),
        "AWS_ENDPOINT_URL": endpoint(lab),
        "AWS_CA_BUNDLE": str(certificates.authority(lab)),
        "AWS_ACCESS_KEY_ID": keys["id"],
        "AWS_SECRET_ACCESS_KEY": keys["secret"],
        "AWS_DEFAULT_REGION": REGION,
    }


def client(lab: Lab, service: str):
    """The owner's boto3 client for one service of the lab's AWS; S3 and its sessions are the store's."""
    keys = operator_keys(lab)
    return boto3.client(
        service,
        endpoint_url=f"https://{lab.gateway}:{S3_PORT if service in {'s3', 'sts'} else AWS_PORT}",
        region_name=REGION,
        aws_access_key_id=keys["id"],
        aws_secret_access_key=keys["secret"],
        verify=str(certificates.authority(lab)),
    )


def instance(lab: Lab, stack: str) -> dict[str, Any]:
    """The running instance of a stack as EC2 describes it."""
    filters = [{"Name": "tag:airstrip", "Values": [stack]}, {"Name": "instance-state-name", "Values": ["running"]}]
    found = client(lab, "ec2").describe_instances(Filters=filters)["Reservations"]
    if not found:
        raise LabError(f"no instance of {stack} runs: run `make lab`")
    return found[0]["Instances"][0]
