"""provision.yml and destroy.yml against an AWS without machines: one story, in this order."""

from __future__ import annotations

import json
import re
import time

import pytest
import yaml
from botocore.exceptions import ClientError

from tests.aws.conftest import BUCKET
from tests.server import ROOT, Play

ROLE = "airstrip-eu-central-1"


def instances(account) -> list[dict]:
    """All that was not terminated."""
    found = account.client("ec2").describe_instances()["Reservations"]
    every = [instance for reservation in found for instance in reservation["Instances"]]
    return [instance for instance in every if instance["State"]["Name"] != "terminated"]


def bucket(account) -> dict:
    s3 = account.client("s3")
    return {
        "public": s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"],
        "versions": s3.get_bucket_versioning(Bucket=BUCKET)["Status"],
        "policy": s3.get_bucket_policy(Bucket=BUCKET)["Policy"],
        "lifecycle": s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"],
        "encryption": s3.get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]["Rules"],
    }


def open_ports(account) -> set[tuple]:
    found = account.client("ec2").describe_security_groups(Filters=[{"Name": "group-name", "Values": ["airstrip"]}])
    rules = found["SecurityGroups"][0]["IpPermissions"]
    return {(rule["FromPort"], source["CidrIp"]) for rule in rules for source in rule["IpRanges"]}


BAD_INPUT = {
    "nobody-may-log-in": ({"aws_ssh_cidrs": []}, "aws_ssh_cidrs is empty"),
    "a-network-with-host-bits": ({"aws_ssh_cidrs": ["10.0.0.1/8"]}, "write 10.0.0.0/8"),
    "no-network-at-all": ({"aws_allowed_cidrs": ["everybody"]}, "198.51.100.7/32"),
    "no-bucket": ({"aws_bucket": ""}, "aws_bucket is empty"),
    "a-name-that-S3-refuses": ({"aws_bucket": "Bad_Name"}, "my-company-airstrip"),
    "no-prefix": ({"aws_bucket_prefixes": []}, "aws_bucket_prefixes"),
    "a-prefix-that-is-none": ({"aws_bucket_prefixes": ["*"]}, "end with a slash"),
    "a-disk-too-small": ({"aws_volume_size": 4}, "8 to 16384 GiB"),
    "no-key-file": ({"aws_public_key_file": "/nowhere.pub"}, "ssh-keygen -t ed25519"),
    "a-name-outside-the-zone": ({"aws_dns_name": "a.example.org"}, "hosted zone aws_dns_zone (example.com)"),
    "a-zone-that-is-not-there": ({"aws_dns_name": "a.b.org", "aws_dns_zone": "b.org"}, "no hosted zone b.org"),
    "nobody-may-look": ({"aws_allowed_cidrs": []}, "aws_allowed_cidrs is empty"),
    "a-network-of-IPv6": ({"aws_ssh_cidrs": ["2001:db8::/32"]}, "is no IPv4 network"),
    "a-subnet-that-is-not-there": ({"aws_subnet_id": "subnet-0123"}, "no subnet subnet-0123"),
    "a-VPC-that-is-not-there": ({"aws_vpc_id": "vpc-0123"}, "no VPC vpc-0123"),
    "an-unknown-release": ({"aws_debian_release": "11"}, "aws_debian_release"),
    "no-credentials": ({"environment_of_aws": {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}}, "aws configure"),
    "credentials-of-nobody": ({"environment_of_aws": {"AWS_ACCESS_KEY_ID": "somebody"}}, "aws configure"),
    "an-unknown-region": ({"aws_region": "eu-nowhere-9"}, "Set aws_region to one"),
}


@pytest.fixture(scope="module")
def refused(account) -> Play:
    """What the first task of provision.yml says to bad input, in one run: each is a host, and all are this machine."""
    (play,) = yaml.safe_load((ROOT / "playbooks" / "provision.yml").read_text())
    play["hosts"], play["tasks"] = "refused", play["tasks"][:1]
    play["environment"] = [play["environment"], "{{ environment_of_aws | default({}) }}"]
    playbook = account.folder / "refused.yml"
    playbook.write_text(yaml.safe_dump([play], sort_keys=False))
    (account.folder / "group_vars").symlink_to(ROOT / "playbooks" / "group_vars")
    hosts = {name: {"ansible_connection": "local", **variables} for name, (variables, _) in BAD_INPUT.items()}
    inventory = account.folder / "refused-hosts.yml"
    inventory.write_text(yaml.safe_dump({"refused": {"hosts": hosts}}))
    return account.play(playbook, "-i", str(inventory), succeeds=False)


@pytest.mark.parametrize(("host", "words"), [(host, words) for host, (_, words) in BAD_INPUT.items()], ids=BAD_INPUT)
def test_wrong_input_stops_before_the_first_change_and_names_the_fix(account, refused, host, words):
    assert words in refused.refusals[host], refused.output[-6000:]
    assert refused.changed == 0 and not instances(account)


def test_provision_looks_at_its_input_first(account):
    play = account.play("provision.yml", "-e", '{"aws_ssh_cidrs": []}', succeeds=False)
    assert "aws_ssh_cidrs is empty" in play.words and play.changed == 0


@pytest.mark.parametrize("variables", [{"aws_name": "other"}, {"aws_region": "eu-west-1"}])
def test_an_inventory_that_would_not_find_it_is_refused(account, variables):
    plugin = account.folder / "inventory" / "aws_ec2.yml"
    plugin.write_text((ROOT / "inventory/production/aws_ec2.yml").read_text())
    try:
        refused = account.play("provision.yml", "-e", json.dumps(variables), succeeds=False)
        assert "write the same in both" in refused.words and refused.changed == 0
    finally:
        plugin.unlink()


def test_check_mode_creates_nothing(account):
    assert account.play("provision.yml", "--check", "--diff").changed > 5
    assert not instances(account) and not account.client("s3").list_buckets()["Buckets"]
    assert not account.client("iam").list_instance_profiles()["InstanceProfiles"]


def test_a_taken_bucket_name_is_said_plainly(account):
    account.api.faults[f"/{BUCKET}"] = ("AccessDenied", "Access Denied")
    try:
        refused = account.play("provision.yml", succeeds=False)
    finally:
        account.api.faults.clear()
    assert "belongs to somebody else (set another aws_bucket)" in refused.words, refused.output
    assert not instances(account)


@pytest.mark.parametrize(
    ("code", "words"),
    [("Unsupported", "set another aws_instance_type"), ("VcpuLimitExceeded", "ask for a higher quota")],
)
def test_a_launch_aws_refuses_names_the_fix(account, code, words):
    account.api.faults["RunInstances"] = (code, "AWS says no")
    try:
        refused = account.play("provision.yml", succeeds=False)
    finally:
        account.api.faults.clear()
    assert words in refused.words and not instances(account)


def test_the_later_of_two_runs_terminates_its_machine(account, monkeypatch):
    """Another run launches its own between this one's look and call."""
    answer, made = account.api.moto, []

    def answer_late(environ, start):
        if b"Action=RunInstances" in environ["wsgi.input"].getvalue() and not made:
            tags = [{"Key": "airstrip", "Value": "airstrip"}]
            image = account.client("ec2").describe_images(Owners=["136693071363"])["Images"][0]["ImageId"]
            made.append(image)
            account.client("ec2").run_instances(
                ImageId=image,
                MinCount=1,
                MaxCount=1,
                InstanceType="t3.small",
                TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
            )
            # Its second of launch is the earlier one.
            time.sleep(1.1)
        return answer(environ, start)

    monkeypatch.setattr(account.api, "moto", answer_late)
    refused = account.play("provision.yml", succeeds=False)
    monkeypatch.undo()
    (left,) = instances(account)
    assert f"has made {left['InstanceId']}" in refused.words
    account.client("ec2").terminate_instances(InstanceIds=[left["InstanceId"]])


def test_it_makes_what_the_variables_say(account):
    account.play("provision.yml")
    (instance,) = instances(account)
    image = account.client("ec2").describe_images(ImageIds=[instance["ImageId"]])["Images"][0]
    # A look-alike of another owner has a later date in its name.
    assert image["OwnerId"] == "136693071363" and image["Name"].startswith("debian-13-amd64-2026")
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert instance["IamInstanceProfile"]["Arn"].endswith(f"/{ROLE}") and instance["KeyName"] == "airstrip"
    records = account.client("route53").list_resource_record_sets(HostedZoneId=account.zone)["ResourceRecordSets"]
    (record,) = [each for each in records if each["Type"] == "A"]
    assert record["ResourceRecords"] == [{"Value": instance["PublicIpAddress"]}]
    (disk,) = account.client("ec2").describe_volumes()["Volumes"]
    assert (disk["Size"], disk["VolumeType"], disk["Encrypted"]) == (30, "gp3", True)
    assert open_ports(account) == {(80, "0.0.0.0/0"), (443, "0.0.0.0/0"), (22, "198.51.100.7/32")}
    (address,) = account.client("ec2").describe_addresses()["Addresses"]
    assert address["PublicIp"] == instance["PublicIpAddress"]
    found = bucket(account)
    assert all(found["public"].values()) and found["versions"] == "Enabled" and "aws:SecureTransport" in found["policy"]
    assert found["lifecycle"][0]["NoncurrentVersionExpiration"]["NoncurrentDays"] == 30
    assert found["encryption"][0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"


def test_a_second_run_changes_nothing_even_with_a_newer_image(account):
    (before,) = instances(account)
    account.api.publish("debian-13-amd64-20261201-2290", "ami-0newer00000000000")
    again = account.play("provision.yml")
    assert again.changed == 0, again.changed_tasks
    assert [each["InstanceId"] for each in instances(account)] == [before["InstanceId"]]


def test_another_architecture_is_refused_before_the_machine_stops(account):
    refused = account.play("provision.yml", "-e", "aws_instance_type=t4g.small", succeeds=False)
    assert "of its own kind" in refused.words and refused.changed == 0


def test_what_somebody_else_made_is_left_alone(account):
    (group,) = instances(account)[0]["SecurityGroups"]
    (key,) = account.client("ec2").describe_key_pairs()["KeyPairs"]
    tags, ec2, iam, s3 = [{"Key": "airstrip", "Value": "airstrip"}], *map(account.client, ("ec2", "iam", "s3"))

    def tag(tags: list[dict]) -> None:
        s3.put_bucket_tagging(Bucket=BUCKET, Tagging={"TagSet": tags})
        iam.tag_role(RoleName=ROLE, Tags=tags)
        ec2.create_tags(Resources=[group["GroupId"], key["KeyPairId"]], Tags=tags)

    tag([{"Key": "airstrip", "Value": "another"}])
    try:
        for playbook in ("provision.yml", "destroy.yml"):
            refused = account.play(playbook, "-e", "confirm=airstrip", succeeds=False)
            for kind in ("bucket", "role", "security group", "key pair"):
                assert f"There is a {kind} " in refused.words, (playbook, kind, refused.output)
            assert refused.changed == 0
    finally:
        tag([*tags, {"Key": "Name", "Value": "airstrip"}])


def test_drift_is_shown_and_one_run_repairs_it(account):
    ec2, s3, iam = (account.client(service) for service in ("ec2", "s3", "iam"))
    before = bucket(account), open_ports(account)
    (group,) = instances(account)[0]["SecurityGroups"]
    rule = {"IpProtocol": "tcp", "FromPort": 8080, "ToPort": 8080, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[rule])
    everywhere = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    ec2.revoke_security_group_egress(GroupId=group["GroupId"], IpPermissions=everywhere)
    mails = {"IpProtocol": "tcp", "FromPort": 25, "ToPort": 25, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_egress(GroupId=group["GroupId"], IpPermissions=[mails])
    s3.delete_public_access_block(Bucket=BUCKET)
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"})
    s3.delete_bucket_policy(Bucket=BUCKET)
    association = ec2.describe_iam_instance_profile_associations()["IamInstanceProfileAssociations"][0]["AssociationId"]
    ec2.disassociate_iam_instance_profile(AssociationId=association)
    iam.attach_role_policy(RoleName=ROLE, PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    iam.put_role_policy(RoleName=ROLE, PolicyName="backdoor", PolicyDocument=json.dumps(everything))
    shown = account.play("provision.yml", "--check", "--diff")
    for trace in ("8080", "the public access block, versioning, the policy", "backdoor", "give it the profile"):
        assert trace in shown.words, f"--check --diff does not show {trace}"
    assert "TASK [aws : Keep the instance's role]" in shown.changed_tasks
    assert "IamInstanceProfile" not in instances(account)[0], "a look ahead changed it"
    # A word that is not empty, and means no.
    account.play("provision.yml", "-e", "aws_session_manager=false")
    assert instances(account)[0]["IamInstanceProfile"]["Arn"].endswith(f"/{ROLE}")
    assert (bucket(account), open_ports(account)) == before
    outbound = ec2.describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"][0]["IpPermissionsEgress"]
    assert [rule["IpProtocol"] for rule in outbound] == ["-1"]
    assert iam.list_attached_role_policies(RoleName=ROLE)["AttachedPolicies"] == []
    assert iam.list_role_policies(RoleName=ROLE)["PolicyNames"] == ["airstrip"]
    policy = iam.get_role_policy(RoleName=ROLE, PolicyName="airstrip")["PolicyDocument"]
    assert "ssmmessages" not in json.dumps(policy)


def test_impossible_instance_changes_are_refused(account):
    ec2 = account.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.99.0.0/24")["Vpc"]["VpcId"]
    other = ec2.create_subnet(VpcId=vpc, CidrBlock="10.99.0.0/24")["Subnet"]["SubnetId"]
    for variable, words in (("aws_volume_size=20", "cannot shrink"), (f"aws_subnet_id={other}", "cannot move")):
        refused = account.play("provision.yml", "-e", variable, succeeds=False)
        assert words in refused.words and refused.changed == 0
    ec2.delete_subnet(SubnetId=other)
    ec2.delete_vpc(VpcId=vpc)


def test_settings_that_change_later_are_applied(account):
    """A larger disk, another door for port 80, a key of KMS and Session Manager; -e gives all as words."""
    key = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"
    account.variables |= {
        "aws_allowed_cidrs": ["198.51.100.0/24"],
        "aws_http_cidrs": ["0.0.0.0/0"],
        "aws_kms_keys": [key],
    }
    try:
        account.play("provision.yml", "-e", "aws_volume_size=40", "-e", "aws_session_manager=true")
        (disk,) = account.client("ec2").describe_volumes()["Volumes"]
        assert disk["Size"] == 40
        assert open_ports(account) == {(80, "0.0.0.0/0"), (443, "198.51.100.0/24"), (22, "198.51.100.7/32")}
        policy = account.client("iam").get_role_policy(RoleName=ROLE, PolicyName="airstrip")["PolicyDocument"]
        allowed = {action for statement in policy["Statement"] for action in [statement["Action"]] for action in (
            [action] if isinstance(action, str) else action)}  # fmt: skip
        assert {"kms:Decrypt", "ssmmessages:OpenDataChannel"} <= allowed and "ssm:GetParameter" not in allowed
        assert account.client("iam").list_attached_role_policies(RoleName=ROLE)["AttachedPolicies"] == []
    finally:
        for name in ("aws_allowed_cidrs", "aws_http_cidrs", "aws_kms_keys"):
            del account.variables[name]


def test_destroy_needs_the_name_and_says_what_is_lost(account):
    assert "nothing was destroyed" in account.play("destroy.yml", "-e", "confirm=other", succeeds=False).output
    identity = instances(account)[0]["InstanceId"]
    protected = account.client("ec2").describe_instance_attribute(
        InstanceId=identity, Attribute="disableApiTermination"
    )
    assert protected["DisableApiTermination"] == {"Value": True}
    refused = account.play("destroy.yml", "-e", "confirm=airstrip", "-e", "aws_destroy_data=false", succeeds=False)
    assert f"{identity} with its disk (the database" in refused.words and refused.changed == 0
    assert len(instances(account)) == 1


def test_destroy_leaves_nothing_or_the_bucket_alone(account):
    words = ["-e", "confirm=airstrip", "-e", "aws_destroy_data=true"]
    account.play("destroy.yml", *words, "-e", "aws_keep_bucket=true")
    account.client("s3").head_bucket(Bucket=BUCKET)
    assert not instances(account)
    account.play("destroy.yml", *words)
    ec2, iam = account.client("ec2"), account.client("iam")
    assert not instances(account) and not ec2.describe_volumes()["Volumes"]
    assert not ec2.describe_addresses()["Addresses"] and not ec2.describe_key_pairs()["KeyPairs"]
    assert [group["GroupName"] for group in ec2.describe_security_groups()["SecurityGroups"]] == ["default"]
    assert not iam.list_roles()["Roles"] and not iam.list_instance_profiles()["InstanceProfiles"]
    with pytest.raises(ClientError):
        account.client("s3").head_bucket(Bucket=BUCKET)
    zones = account.client("route53").list_hosted_zones()["HostedZones"]
    records = account.client("route53").list_resource_record_sets(HostedZoneId=zones[0]["Id"])["ResourceRecordSets"]
    assert {record["Type"] for record in records} == {"NS", "SOA"}
    assert account.play("destroy.yml", *words).changed == 0


REST = {
    "accelerate": "AccelerateConfiguration",
    "acl": "BucketAcl",
    "encryption": "EncryptionConfiguration",
    "inventory": "InventoryConfiguration",
    "lifecycle": "LifecycleConfiguration",
    "object-lock": "BucketObjectLockConfiguration",
    "ownershipControls": "BucketOwnershipControls",
    "policy": "BucketPolicy",
    "publicAccessBlock": "BucketPublicAccessBlock",
    "requestPayment": "BucketRequestPayment",
    "tagging": "BucketTagging",
    "versioning": "BucketVersioning",
}
PLAIN = {
    "route53:GET hostedzone": "route53:ListHostedZones",
    "route53:GET rrset": "route53:ListResourceRecordSets",
    "route53:POST rrset": "route53:ChangeResourceRecordSets",
    "s3:GET": "s3:ListAllMyBuckets",
    "s3:GET list-type": "s3:ListBucket",
    "s3:GET versions": "s3:ListBucketVersions",
    "s3:HEAD": "s3:ListBucket",
    "s3:PUT": "s3:CreateBucket",
    "s3:DELETE": "s3:DeleteBucket",
    "s3:POST delete": "s3:DeleteObject",
}
# AWS asks for them itself, or this test's account does not need them: none of its instances was stopped or resized.
UNSEEN = {
    "ec2:StartInstances",
    "ec2:StopInstances",
    "iam:PassRole",
    "ec2:CreateTags",
    "iam:TagRole",
    "iam:TagInstanceProfile",
    "s3:DeleteObject",
    "s3:DeleteObjectVersion",
}


def action(asked: str) -> str:
    """What a policy calls a request."""
    service, _, request = asked.partition(":")
    if " " not in request:
        return asked
    method, _, target = request.partition(" ")
    path, _, query = target.partition("?")
    key = re.split("[=&]", query)[0] if service == "s3" else path.strip("/").rsplit("/", 1)[-1]
    plain = PLAIN.get(f"{service}:{method} {key}".strip())
    return plain or f"s3:{'Get' if method == 'GET' else 'Put'}{REST[key]}"


def test_the_operators_policy_allows_exactly_what_the_playbooks_do(account):
    """After all that was done here."""
    policy = json.loads((ROOT / "docs/operator-policy.json").read_text())
    allowed = {name for statement in policy["Statement"] for name in statement["Action"]}
    asked = {action(each) for each in account.api.asked}
    assert (asked - allowed, allowed - asked - UNSEEN) == (set(), set())
