"""The instance metadata service: what an instance asks about itself, including its role's credentials."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lab.aws import Api
from lab.settings import ACCOUNT, REGION

VERSIONS = ["2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "latest"]
# Returns credentials for a role: the AWS fields AccessKeyId, SecretAccessKey, Token and Expiration.
Mint = Callable[[str], dict[str, str]]


class Handler(BaseHTTPRequestHandler):
    """Answers for one account; `serve` subclasses it."""

    api: Api
    mint: Mint
    tokens: dict[str, float]

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, text: str = "") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def instance(self) -> Any:
        """The instance that asks, or None after an error response."""
        caller = self.client_address[0]
        found = [each for each in self.api.ec2.all_instances() if each.private_ip == caller and each.state == "running"]
        if not found or found[0].metadata_options.http_endpoint == "disabled":
            self.answer(404)
            return None
        if "X-Forwarded-For" in self.headers:
            self.answer(403)
            return None
        return found[0]

    def do_PUT(self) -> None:
        seconds = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if not self.instance():
            return
        if self.path != "/latest/api/token" or not seconds.isdigit() or not 1 <= int(seconds) <= 21600:
            self.answer(400)
            return
        token = secrets.token_urlsafe(40)
        self.tokens[token] = time.monotonic() + int(seconds)
        self.answer(200, token)

    def do_GET(self) -> None:
        instance = self.instance()
        if not instance:
            return
        token = self.headers.get("X-aws-ec2-metadata-token")
        if (token or instance.metadata_options.http_tokens == "required") and (
            self.tokens.get(token or "", 0) < time.monotonic()
        ):
            self.answer(401)
            return
        version, _, path = self.path.strip("/").partition("/")
        if version not in VERSIONS:
            self.answer(200, "\n".join(VERSIONS)) if not version else self.answer(404)
            return
        found: Any = tree(self.api, instance, self.mint)
        for step in filter(None, path.split("/")):
            found = found.get(step) if isinstance(found, dict) else None
            found = found() if callable(found) else found
        if found is None:
            self.answer(404)
        elif isinstance(found, dict):
            listing = [f"{name}/" if isinstance(below, dict) else name for name, below in found.items()]
            self.answer(200, "\n".join(found.get("", listing)))
        else:
            self.answer(200, found)


def serve(api: Api, address: str, port: int, mint: Mint) -> None:
    """Answer in a thread of its own."""
    handler = type("AccountHandler", (Handler,), {"api": api, "mint": staticmethod(mint), "tokens": {}})
    server = ThreadingHTTPServer((address, port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def role_of(api: Api, instance: Any) -> str:
    """The name of the role in the instance's profile, or an empty text."""
    from moto.iam.models import iam_backends

    association = api.ec2.iam_instance_profile_associations.get(instance.id)
    given = association.iam_instance_profile.name if association else (instance.iam_instance_profile or "")
    name = str(given.get("Arn") or given.get("Name") if isinstance(given, dict) else given).rpartition("/")[2]
    profile = next((p for p in iam_backends[ACCOUNT]["aws"].instance_profiles.values() if p.name == name), None)
    return profile.roles[0].name if profile and profile.roles else ""


def tree(api: Api, instance: Any, mint: Mint) -> dict[str, Any]:
    """The paths below a version; a name "" lists a folder whose listing is special."""
    data = meta_data(instance)
    key = api.ec2.key_pairs.get(instance.key_name)
    if key:
        data["public-keys"] = {"": [f"0={key.key_name}"], "0": {"openssh-key": key.public_key}}
    role = role_of(api, instance)
    if role:
        data["iam"] = iam(role, mint)
    return {"meta-data": data, "dynamic": {"instance-identity": {"document": json.dumps(identity(instance))}}}


def meta_data(instance: Any) -> dict[str, Any]:
    """What an instance is, without its key and its role."""
    card = instance.nics[0]
    interface = {
        "device-number": "0",
        "interface-id": card.id,
        "local-ipv4s": card.private_ip_address,
        "local-hostname": instance.private_dns_name,
        "mac": card.mac_address,
        "owner-id": ACCOUNT,
        "subnet-id": card.subnet.id,
        "subnet-ipv4-cidr-block": card.subnet.cidr_block,
        "vpc-id": card.vpc_id,
    }
    public = {"public-ipv4": card.public_ip, "public-hostname": instance.public_dns_name} if card.public_ip else {}
    return {
        "ami-id": instance.image_id,
        "ami-launch-index": "0",
        "hostname": instance.private_dns_name,
        "instance-id": instance.id,
        "instance-type": instance.instance_type,
        "local-hostname": instance.private_dns_name,
        "local-ipv4": card.private_ip_address,
        "mac": card.mac_address,
        "network": {"interfaces": {"macs": {card.mac_address: interface}}},
        "placement": {"availability-zone": instance.availability_zone, "region": REGION},
        "security-groups": "\n".join(group.name for group in card.group_set),
        "services": {"domain": "amazonaws.com", "partition": "aws"},
        **public,
    }


def iam(role: str, mint: Mint) -> dict[str, Any]:
    """The role of an instance, and its credentials, created on request."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    profile = f"arn:aws:iam::{ACCOUNT}:instance-profile/{role}"
    info = {"Code": "Success", "LastUpdated": now, "InstanceProfileArn": profile}

    def credentials() -> str:
        return json.dumps({"Code": "Success", "LastUpdated": now, "Type": "AWS-HMAC", **mint(role)})

    return {"info": json.dumps(info), "security-credentials": {role: credentials}}


def identity(instance: Any) -> dict[str, str]:
    """The identity document of an instance."""
    return {
        "accountId": ACCOUNT,
        "architecture": instance.architecture,
        "availabilityZone": instance.availability_zone,
        "imageId": instance.image_id,
        "instanceId": instance.id,
        "instanceType": instance.instance_type,
        "privateIp": instance.nics[0].private_ip_address,
        "region": REGION,
        "version": "2017-09-30",
    }
