"""AWS in this process, without machines behind it."""

from __future__ import annotations

import json
import socket
import subprocess
from ipaddress import IPv4Network
from pathlib import Path

import boto3
import pytest
import yaml

from lab.aws import Api
from lab.services.aws import ambient
from tests.server import ROOT, Play, by_way_of_mitogen

BUCKET = "quick-test-bucket"
KEY = "operator"


class Account:
    """An AWS account and the playbooks run against it."""

    def __init__(self, api: Api, folder: Path) -> None:
        self.api, self.folder = api, folder
        (folder / "inventory" / "group_vars").mkdir(parents=True)
        self.url = api.serve("127.0.0.1", 0)
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        public = folder / "id.pub"
        private = folder / "id"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", private], check=True)
        # Nothing listens at the addresses that this AWS gives; all of 127/8 is this machine.
        self.door = socket.create_server(("", 0))
        self.variables = {
            "aws_bucket": BUCKET,
            "aws_ssh_cidrs": ["198.51.100.7/32"],
            "aws_public_key_file": str(public),
            "aws_dns_name": "airflow.example.com",
            "aws_dns_zone": "example.com",
            "ansible_port": self.door.getsockname()[1],
        }
        zone = self.client("route53").create_hosted_zone(Name="example.com", CallerReference="1")
        self.zone = zone["HostedZone"]["Id"]

    def client(self, service: str):
        keys = {"aws_access_key_id": KEY, "aws_secret_access_key": "any"}
        return boto3.client(service, endpoint_url=self.url, region_name="eu-central-1", **keys)

    def play(self, playbook: str | Path, *arguments: str, succeeds: bool = True) -> Play:
        inventory = self.folder / "inventory" / "group_vars"
        (inventory / "all.yml").write_text(yaml.safe_dump(self.variables))
        (inventory.parent / "hosts.yml").write_text(json.dumps({"all": {}}))
        command = ["ansible-playbook", "-i", str(inventory.parent), str(Path("playbooks", playbook)), *arguments]
        result = subprocess.run(
            command,
            cwd=ROOT,
            env={**ambient(), **self.environment, **by_way_of_mitogen(), "ANSIBLE_NOCOLOR": "1"},
            text=True,
            capture_output=True,
            check=False,
        )
        play = Play(result.returncode, result.stdout + result.stderr)
        assert (play.code == 0) == succeeds, play.output[-6000:]
        return play


@pytest.fixture(scope="session")
def account(tmp_path_factory) -> Account:
    folder = tmp_path_factory.mktemp("aws")
    return Account(Api(folder, KEY, public_subnet=IPv4Network("127.77.0.0/24")), folder)
