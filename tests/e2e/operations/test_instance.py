"""What AWS adds: the role's credentials, security groups, stop and start, and the end of an installation."""

from __future__ import annotations

import csv
import io
import secrets
import shutil
import socket
import subprocess
from datetime import date, timedelta
from pathlib import Path

import pytest

from lab import instance as machines
from lab import services
from lab.settings import BUCKET
from lab.x_api.people import lab_people
from tests.e2e.visitors import with_role
from tests.server import ROOT, Server, wait_until

ROLE = "debian13-eu-central-1"
POLICY = "airstrip"


@pytest.fixture(scope="module")
def machine(lab, place) -> Server:
    """A machine of another installation in the same account, with nothing on it."""
    machine = place.server("other", aws_bucket="airstrip-other")
    machine.play("provision.yml")
    return machine


def test_the_store_has_no_back_door(server):
    lab = server.lab
    knock = "import socket\ntry: socket.create_connection(('{}', {}), 3)\nexcept OSError as error: print('closed')"
    for port in (9333, 9340, 20000 + lab.number, 24000 + lab.number, 25000 + lab.number):
        socket.create_connection((lab.gateway, port), 3).close()
        assert with_role(server, knock.format(lab.gateway, port)) == "closed\n", port


def test_the_command_collects_onto_s3_with_the_instances_role(server):
    day, person = date.today() - timedelta(days=3), lab_people()[0]
    words = ["etl.twitter_etl", person.username, "--day", str(day), "--to", f"s3://{BUCKET}"]
    environment = {
        "X_BEARER_TOKEN": services.x_api.bearer_token(server.lab),
        "X_API_URL": services.x_api.endpoint(server.lab),
        "REQUESTS_CA_BUNDLE": "/etc/ssl/certs/ca-certificates.crt",
    }
    said = with_role(
        server,
        f"import os, runpy, sys\nos.environ.update({environment})\nsys.path.insert(0, '/srv/airflow/current')\n"
        f"sys.argv = {words}\nrunpy.run_module('etl.twitter_etl', run_name='__main__')",
    )
    key = f"curated/x/posts/dt={day}/user_id={person.id}/posts.csv"
    text = server.aws("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()
    assert len(list(csv.DictReader(io.StringIO(text, newline="")))) == 7, said


def test_the_shipped_inventory_reads_its_token_from_an_encrypted_vault(server, tmp_path):
    inventory, token, key = tmp_path / "production", secrets.token_hex(20), tmp_path / "key"
    shutil.copytree(ROOT / "inventory" / "production", inventory)
    plugin = inventory / "aws_ec2.yml"
    plugin.write_text(plugin.read_text().replace("tag:airstrip: airstrip", f"tag:airstrip: {server.stack}"))
    vault = inventory / "group_vars" / "all" / "vault.yml"
    vault.write_text(vault.read_text().replace('vault_x_bearer_token: ""', f"vault_x_bearer_token: {token}"))
    key.write_text(secrets.token_hex(20))

    def run(*command: str | Path) -> subprocess.CompletedProcess:
        environment = services.aws.operator_environment(server.lab)
        return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)

    unlock = ["--vault-password-file", key]
    assert run("ansible-vault", "encrypt", *unlock, vault).returncode == 0 and token not in vault.read_text()
    ask = ["ansible", "airstrip", "-i", inventory, "-m", "debug", "-a", "var=airflow_connections.x_api.password"]
    locked = run(*ask)
    assert locked.returncode and "vault" in locked.stdout + locked.stderr
    opened = run(*ask, *unlock)
    assert f"{server.stack}-server | SUCCESS" in opened.stdout and token in opened.stdout


@pytest.mark.long
def test_without_its_policy_the_run_fails_and_says_so(server):
    server.aws("iam").delete_role_policy(RoleName=ROLE, PolicyName=POLICY)
    try:
        assert "resolve_users" in server.play("run.yml", "-e", "dag=twitter", succeeds=False).output
        log = server.run("grep -rh AccessDenied /var/log/airflow/dag_id=twitter")
        assert f"this host may not use {BUCKET}/" in log and "playbooks/provision.yml" in log
    finally:
        repaired = server.play("provision.yml")
    assert repaired.changed_tasks == ["TASK [aws : Keep what it may do]"]
    server.play("run.yml", "-e", "dag=twitter")


@pytest.mark.long
def test_a_port_is_closed_until_the_security_group_opens_it(server, machine):
    inside = server.instance["PrivateIpAddress"]
    listener = "systemd-run --quiet --unit=listener python3 -m http.server 9999"
    server.run(listener)
    knock = f"python3 -c \"import socket; socket.create_connection(('{inside}', 9999), 3)\" 2>&1"
    here = knock.replace(inside, "127.0.0.1")
    wait_until(lambda: server.run(here, check=False) == "", 20, "nothing listens on the host")
    assert "TimeoutError" in machine.run(knock, check=False)
    group = server.instance["SecurityGroups"][0]["GroupId"]
    source = f"{machine.instance['PrivateIpAddress']}/32"
    rule = {"IpProtocol": "tcp", "FromPort": 9999, "ToPort": 9999, "IpRanges": [{"CidrIp": source}]}
    server.aws("ec2").authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    wait_until(lambda: machine.run(knock, check=False) == "", 20, "the security group does not open the port")
    assert server.play("provision.yml").changed_tasks == ["TASK [aws : Keep the security group]"]
    wait_until(lambda: "TimeoutError" in machine.run(knock, check=False), 20, "provision.yml did not close the port")
    server.run("systemctl stop listener")


@pytest.mark.long
def test_a_stopped_instance_comes_back_with_its_address(server):
    ec2, identity, address = server.aws("ec2"), server.instance["InstanceId"], server.address
    ec2.stop_instances(InstanceIds=[identity])
    wait_until(lambda: not machines.runs(server.lab, identity), 120, "the machine does not stop")
    with pytest.raises(OSError):
        socket.create_connection((address, 22), 2)
    assert server.play("provision.yml").changed == 1
    assert server.instance["PublicIpAddress"] == address
    server.wait_until_healthy()


def test_the_end_of_an_installation_leaves_nothing(server, machine):
    identity = machine.instance["InstanceId"]
    s3 = machine.aws("s3")
    s3.put_object(Bucket="airstrip-other", Key="curated/kept", Body=b"x")
    refused = machine.play("destroy.yml", "-e", "confirm=other", succeeds=False)
    assert "aws_destroy_data=true" in refused.output and refused.changed == 0
    machine.run("true")
    machine.play("destroy.yml", "-e", "confirm=other", "-e", "aws_destroy_data=true")
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == [BUCKET]
    wait_until(lambda: identity not in machines.known(machine.lab), 120, "the machine is still there")
    assert "no host" in machine.play("site.yml", succeeds=False).output
