"""The AWS API of the lab: moto at its strictest behind TLS, with S3 passed on to a store that enforces policies."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import boto3
import urllib3

from lab.machine_images import DEBIAN, image, images
from lab.settings import ACCOUNT, REGION

STRICT = {
    "MOTO_ENABLE_AMI_VALIDATION": "1",
    "MOTO_ENABLE_KEYPAIR_VALIDATION": "1",
    "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "1",
    "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
    "MOTO_ACCOUNT_ID": ACCOUNT,
}
PUBLIC_ACCESS_MISSING = (
    "<Error><Code>NoSuchPublicAccessBlockConfiguration</Code>"
    "<Message>The public access block configuration was not found</Message></Error>"
)

Start = Callable[..., Any]


@dataclass
class Api:
    """AWS for the owner of the operator's key, and for the roles of instances what their policies allow.

    `store` is the S3 store's address; without it moto keeps S3 too. `faults` names actions (RunInstances) and S3
    buckets (/name) that fail, each with AWS's code and message.
    """

    folder: Path
    operator: str
    store: str = ""
    authority: str = ""
    subnet: IPv4Network = field(default_factory=lambda: IPv4Network("10.203.0.0/24"))
    public_subnet: IPv4Network = field(default_factory=lambda: IPv4Network("198.18.0.0/24"))
    faults: dict[str, tuple[str, str]] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)
    reboots: list[str] = field(default_factory=list)
    # Requests of the playbooks, as policies name them, or by method and path if the API has no names.
    asked: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        catalogue = self.folder / "images.json"
        catalogue.write_text(json.dumps(images()))
        os.environ.update(STRICT, MOTO_AMIS_PATH=str(catalogue))
        # moto reads its settings when it is imported.
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self.moto = DomainDispatcherApplication(create_backend_app)
        self.pool = urllib3.PoolManager(ca_certs=self.authority or None, retries=False)
        self.public_access: dict[str, bytes] = {}
        self.regions = boto3.session.Session().get_available_regions("ec2")
        self._make_region()

    @property
    def ec2(self) -> Any:
        """moto's memory of the region."""
        from moto.ec2.models import ec2_backends

        return ec2_backends[ACCOUNT][REGION]

    def _make_region(self) -> None:
        """Give the default VPC the lab's subnet, and addresses the lab's ranges."""
        from moto.ec2.models import (
            elastic_block_store,
            elastic_ip_addresses,
            elastic_network_interfaces,
            instances,
            tags,
            vpcs,
        )

        # moto has its own name for this type, which no client uses.
        tags.EC2_PREFIX_TO_RESOURCE["eipalloc"] = "elastic-ip"
        addresses = (str(address) for address in itertools.cycle(list(self.public_subnet.hosts())))
        elastic_ip_addresses.random_ip = elastic_network_interfaces.random_public_ip = lambda: next(addresses)
        subnet = self.subnet

        def create_default_vpc(backend: Any) -> Any:
            vpc = backend.create_vpc(cidr_block=str(subnet), is_default=True)
            zone = backend.describe_availability_zones()[0].name
            backend.create_subnet(vpc.id, str(subnet), availability_zone=zone)
            return vpc

        vpcs.VPCBackend.create_default_vpc = create_default_vpc
        assign = elastic_network_interfaces.NetworkInterface.check_auto_public_ip

        def keep_elastic_address(card: Any) -> None:
            kept = [each.public_ip for each in card.ec2_backend.addresses if each.eni is card]
            if kept:
                card.public_ip = kept[0]
            else:
                assign(card)

        # moto would give a started instance a new address in place of its elastic one.
        elastic_network_interfaces.NetworkInterface.check_auto_public_ip = keep_elastic_address
        begin = instances.Instance.reboot

        def reboot(instance: Any) -> None:
            begin(instance)
            self.reboots.append(instance.id)

        instances.Instance.reboot = reboot
        make = elastic_block_store.Volume.__init__

        def make_as_aws_does(volume: Any, *arguments: Any, **more: Any) -> None:
            make(volume, *arguments, **more)
            # AWS always reports a snapshot id, even if it is empty.
            volume.snapshot_id = volume.snapshot_id or ""

        elastic_block_store.Volume.__init__ = make_as_aws_does

    def publish(self, name: str, identity: str, owner: str = DEBIAN) -> None:
        """Add a machine image to the region, as its owner would."""
        from moto.ec2.models.amis import Ami

        self.ec2.amis[identity] = Ami(self.ec2, **image(name, identity, owner))

    def serve(self, address: str, port: int, certificate: Path | None = None) -> str:
        """Answer in a thread of its own; return the address as a URL."""
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_: Any) -> None:
                pass

        context = None
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        server = make_server(address, port, self, threaded=True, request_handler=Quiet, ssl_context=context)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"{'https' if context else 'http'}://{address}:{server.server_port}"

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        """Answer one request."""
        scope = re.search(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
        key, region, service = scope.groups() if scope else ("", "", "")
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        action = _action(environ, body)
        if "Ansible" in environ.get("HTTP_USER_AGENT", ""):
            rest = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}"
            self.asked.add(f"{service or 's3'}:{action or rest}")
        if service not in {"s3", ""} and key != self.operator:
            refusal = self._refusal(key, service, action, body)
            if refusal:
                return _error(environ, start, 403, *refusal)
        for place, fault in self.faults.items():
            if place in {action, environ["PATH_INFO"]}:
                return _error(environ, start, 403 if place.startswith("/") else 400, *fault)
        if service == "ec2" and region not in self.regions:
            return _error(environ, start, 400, "InvalidRegion", f"There is no region {region}")
        if service in {"s3", ""} and self.store:
            if environ["QUERY_STRING"].startswith("publicAccessBlock") and key == self.operator:
                return self._public_access(environ, start, body)
            return self._pass_on(environ, start, body)
        environ["wsgi.input"] = io.BytesIO(body)
        return self.moto(environ, start)

    def _refusal(self, key: str, service: str, action: str, body: bytes) -> tuple[str, str] | None:
        """Why the policies of an instance's role forbid this, for keys other than the operator's."""
        role = self.sessions.get(key)
        if role is None:
            return "AuthFailure", "AWS was not able to validate the provided access credentials"
        from moto.iam.access_control import IAMPolicy, PermissionResult

        wanted, resource = f"{service}:{action}", "*"
        with suppress(ValueError, AttributeError):
            request = json.loads(body)
            if service == "ssm" and "Name" in request:
                resource = f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/{request['Name'].lstrip('/')}"
            if service == "secretsmanager" and "SecretId" in request:
                resource = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{request['SecretId']}-000000"
        results = {IAMPolicy(json.dumps(document)).is_action_permitted(wanted, resource) for document in policies(role)}
        if PermissionResult.PERMITTED in results and PermissionResult.DENIED not in results:
            return None
        code = "UnauthorizedOperation" if service == "ec2" else "AccessDeniedException"
        return code, f"{role} is not authorized to perform: {wanted} on resource: {resource}"

    def _public_access(self, environ: dict[str, Any], start: Start, body: bytes) -> Iterable[bytes]:
        """Keep the setting that the store does not have; it is stored, not enforced."""
        bucket, method = environ["PATH_INFO"].strip("/"), environ["REQUEST_METHOD"]
        if method == "PUT":
            self.public_access[bucket] = body
            start("200 OK", [])
            return []
        if method == "DELETE":
            self.public_access.pop(bucket, None)
            start("204 No Content", [])
            return []
        found = self.public_access.get(bucket)
        start("200 OK" if found else "404 Not Found", [("Content-Type", "application/xml")])
        return [found or PUBLIC_ACCESS_MISSING.encode()]

    def _pass_on(self, environ: dict[str, Any], start: Start, body: bytes) -> Iterable[bytes]:
        """Let the S3 store answer; headers are passed on unchanged, because they are signed."""
        if environ["REQUEST_METHOD"] == "DELETE" and not environ["QUERY_STRING"]:
            self.public_access.pop(environ["PATH_INFO"].strip("/"), None)
        headers = {
            name[5:].replace("_", "-").title(): value for name, value in environ.items() if name.startswith("HTTP_")
        }
        for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            if environ.get(name):
                headers[name.replace("_", "-").title()] = environ[name]
        headers.pop("Expect", None)
        answer = self.pool.request(
            environ["REQUEST_METHOD"], self.store + environ["REQUEST_URI"], headers=headers, body=body, redirect=False
        )
        kept = [
            (name, value)
            for name, value in answer.headers.items()
            if name.lower() not in {"connection", "transfer-encoding", "content-length", "date", "server"}
        ]
        if environ["REQUEST_METHOD"] == "HEAD":
            kept.append(("Content-Length", answer.headers.get("Content-Length", "0")))
        start(f"{answer.status} {answer.reason}", kept)
        return [answer.data]


def policies(role: str) -> list[dict[str, Any]]:
    """The documents of a role, inline and managed, as the API has them now; a missing role has none."""
    from moto.iam.models import iam_backends

    found = next((each for each in iam_backends[ACCOUNT]["aws"].roles.values() if each.name == role), None)
    if found is None:
        return []
    texts = [*found.policies.values(), *(policy.document for policy in found.managed_policies.values())]
    return [json.loads(text) if isinstance(text, str) else text for text in texts]


def _action(environ: dict[str, Any], body: bytes) -> str:
    """What a request asks for, as policies name it: RunInstances, GetParameter."""
    target = environ.get("HTTP_X_AMZ_TARGET")
    if target:
        return target.rpartition(".")[2]
    form = parse_qs(body.decode(errors="replace")) if b"Action=" in body else {}
    return form.get("Action", [""])[0]


def _error(environ: dict[str, Any], start: Start, status: int, code: str, message: str) -> Iterable[bytes]:
    """Refuse in the dialect of the service."""
    detail = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    body = f"<ErrorResponse>{detail}</ErrorResponse>"
    if environ.get("HTTP_X_AMZ_TARGET"):
        body = json.dumps({"__type": code, "message": message})
    elif "/ec2/" in environ.get("HTTP_AUTHORIZATION", ""):
        body = f"<Response><Errors>{detail}</Errors><RequestID>0</RequestID></Response>"
    elif environ["PATH_INFO"] != "/":
        body = detail
    start(f"{status} Refused", [("Content-Type", "application/xml")])
    return [body.encode()]
