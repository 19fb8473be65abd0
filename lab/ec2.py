"""The backend of the API: it creates the machines, addresses and closed ports that the API reports.

Run as a process of its own: `python -m lab.ec2`. moto keeps state in memory, so the account ends with the process.
"""

from __future__ import annotations

import json
import time
import traceback
from typing import Any

from lab import instance as machines
from lab import metadata, network, services
from lab.aws import Api, policies
from lab.machine_images import bootable
from lab.settings import AWS_PORT, METADATA_PORT, Lab

NOTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}


class Credentials:
    """Temporary keys of roles; the S3 store enforces the policies that the role has in the API."""

    def __init__(self, lab: Lab, api: Api) -> None:
        self.api = api
        self.given: dict[str, tuple[str, float, dict[str, str]]] = {}
        self.sts = services.aws.client(lab, "sts")

    def mint(self, role: str) -> dict[str, str]:
        """The role's credentials: the same for half an hour, but new ones once its policies changed."""
        statements = [
            statement
            for document in policies(role)
            for statement in (
                document["Statement"] if isinstance(document["Statement"], list) else [document["Statement"]]
            )
        ]
        policy = json.dumps({**NOTHING, "Statement": statements} if statements else NOTHING)
        known = self.given.get(role)
        if not known or known[0] != policy or known[1] < time.monotonic():
            answer = self.sts.assume_role(
                RoleArn=services.s3.STORE_ROLE, RoleSessionName=role, DurationSeconds=3600, Policy=policy
            )["Credentials"]
            fresh = {
                "AccessKeyId": answer["AccessKeyId"],
                "SecretAccessKey": answer["SecretAccessKey"],
                "Token": answer["SessionToken"],
                "Expiration": answer["Expiration"].strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            self.api.sessions[fresh["AccessKeyId"]] = role
            known = self.given[role] = (policy, time.monotonic() + 1800, fresh)
        return known[2]


def _guarded(action: Any, *arguments: Any) -> None:
    """A failure must not stop the rest: it is logged, and the next round retries."""
    try:
        action(*arguments)
    except Exception:
        traceback.print_exc()
        time.sleep(1)


class Hypervisor:
    """Keeps reconciling machines, names and rules with the API."""

    def __init__(self, lab: Lab, api: Api) -> None:
        self.lab, self.api = lab, api
        self.booted: set[str] = set()
        self.rules: Any = None

    def tend(self) -> None:
        """Make reality match the API."""
        wanted = {each.id: each for each in self.api.ec2.all_instances()}
        alive = {each for each, instance in wanted.items() if instance.state != "terminated"}
        self._filter([wanted[each] for each in alive])
        for gone in machines.known(self.lab) - alive:
            self.booted.discard(gone)
            _guarded(machines.down, self.lab, gone)
        while self.api.reboots:
            machines.reboot(self.lab, self.api.reboots.pop())
        for each in alive:
            _guarded(self._tend, wanted[each])

    def _tend(self, instance: Any) -> None:
        """Switch one machine on or off."""
        from moto.ec2.models.instance_types import INSTANCE_TYPES

        on = machines.runs(self.lab, instance.id)
        if instance.state == "stopped":
            if on:
                machines.power_off(self.lab, instance.id)
            self.booted.discard(instance.id)
        elif instance.id in self.booted and not on:
            # Switched off from inside: EC2 notices and calls it stopped.
            self.booted.discard(instance.id)
            instance.stop()
        elif not on:
            card = instance.nics[0]
            image = self.api.ec2.describe_images(ami_ids=[instance.image_id])[0]
            memory = INSTANCE_TYPES[instance.instance_type]["MemoryInfo"]["SizeInMiB"] * 1024**2
            network.name(self.lab, card.mac_address, card.private_ip_address)
            stack = next((tag["value"] for tag in instance.get_tags() if tag["key"] == "airstrip"), "")
            machine = machines.Machine(instance.id, bootable(image.name), card.mac_address, memory, stack)
            if not machine.suite:
                print(f"lab: {image.name} does not boot on this machine", flush=True)
                instance.stop()
                return
            machines.up(self.lab, machine)
            self.booted.add(instance.id)

    def _filter(self, instances: list[Any]) -> None:
        groups: dict[str, list[str]] = {}
        public = {}
        members: dict[str, list[str]] = {}
        for instance in instances:
            for group in instance.nics[0].group_set:
                members.setdefault(group.id, []).append(instance.private_ip)
        for instance in instances:
            matches = [
                match
                for group in instance.nics[0].group_set
                for rule in group.ingress_rules
                for match in accepted(rule, members)
            ]
            groups[instance.private_ip] = sorted(set(matches))
            if instance.public_ip:
                public[instance.public_ip] = instance.private_ip
                # The certificate that the owner of a public address could get for it.
                services.certificates.certify(self.lab, instance.public_ip, [instance.public_ip, instance.private_ip])
        if (groups, public) != self.rules:
            network.filter_traffic(self.lab, groups, public)
            self.rules = (groups, public)


def accepted(rule: Any, members: dict[str, list[str]]) -> list[str]:
    """One rule of a security group as nft matches, one a source; `members` has the addresses in each group."""
    sources = members.get(rule.source_group.get("GroupId"), []) + ([rule.cidr_ipv4] if rule.cidr_ipv4 else [])
    match rule.ip_protocol:
        case "-1":
            traffic = ""
        case "icmp":
            traffic = "ip protocol icmp"
        case "tcp" | "udp":
            traffic = f"{rule.ip_protocol} dport {rule.from_port}-{rule.to_port}"
        case _:
            return []
    return [f"ip saddr {source} {traffic}" for source in sources]


def main() -> None:
    """Serve the lab that the environment names, until stopped."""
    lab = Lab()
    certificate = lab.certificates / "services.pem"
    api = Api(
        lab.state / "aws",
        services.aws.operator_keys(lab)["id"],
        services.s3.endpoint(lab),
        str(services.certificates.authority(lab)),
        lab.subnet,
        lab.public_subnet,
    )
    # The account is gone, so its machines are orphans.
    hypervisor = Hypervisor(lab, api)
    hypervisor.tend()
    metadata.serve(api, lab.gateway, METADATA_PORT, Credentials(lab, api).mint)
    api.serve(lab.gateway, AWS_PORT, certificate)
    print("serving", flush=True)
    while True:
        _guarded(hypervisor.tend)
        time.sleep(0.3)


if __name__ == "__main__":
    main()
