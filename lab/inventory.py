"""The inventory that Ansible reads: one folder an instance, all components on that host."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from lab import services
from lab.settings import BUCKET, USERNAMES, Instance, Lab

GROUPS = Path(__file__).parent.parent / "inventory" / "production" / "groups.yml"


def path(lab: Lab, instance: Instance) -> Path:
    """The folder to give to `ansible-playbook -i`."""
    return lab.inventory / instance.name


def write(lab: Lab, instance: Instance) -> Path:
    """Write the inventory: the groups of production, the lab's host, its endpoints and credentials."""
    folder = path(lab, instance)
    (folder / "group_vars").mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copy(GROUPS, folder / "groups.yml")
    keys = services.s3_keys(lab, "instance")
    host = {
        "ansible_host": instance.address,
        "ansible_user": "admin",
        "ansible_ssh_private_key_file": str(lab.private_key),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={lab.known_hosts} -o IdentitiesOnly=yes",
    }
    variables = {
        "base_certificate_authorities": [services.authority(lab).read_text()],
        "nginx_server_names": [instance.address, instance.name],
        "nginx_certificate": "supplied",
        "nginx_certificate_file": str(lab.certificates / f"{instance.name}.pem"),
        "nginx_certificate_key_file": str(lab.certificates / f"{instance.name}.key"),
        "airflow_variables": {"x_usernames": ",".join(USERNAMES), "x_bucket": BUCKET},
        "airflow_connections": {
            "x_api": {
                "conn_type": "http",
                "host": services.x_api_endpoint(lab),
                "password": services.x_bearer_token(lab),
            },
        },
        "airflow_task_environment": {
            "AWS_ENDPOINT_URL_S3": services.s3_endpoint(lab),
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": keys["id"],
            "AWS_SECRET_ACCESS_KEY": keys["secret"],
        },
    }
    _write(folder / "hosts.yml", {"airstrip": {"hosts": {instance.name: host}}})
    _write(folder / "group_vars" / "all.yml", variables)
    return folder


def _write(file: Path, content: dict) -> None:
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(content, sort_keys=False))
