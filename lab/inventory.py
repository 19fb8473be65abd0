"""The inventory that Ansible reads: production's own, with the lab's endpoints and credentials."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from lab import services
from lab.network import DOMAIN
from lab.services.secret import secret, word
from lab.settings import ARCHITECTURE, BUCKET, ORDERS_PORT, REGION, S3_PORT, SMTP_PORT, USERNAMES, Lab
from lab.shop.database import READER
from lab.template import render

PRODUCTION = Path(__file__).parent.parent / "inventory" / "production"


def path(lab: Lab, stack: str = "airstrip") -> Path:
    """The folder to give to `ansible-playbook -i`."""
    return lab.inventory / stack


def write(lab: Lab, stack: str = "airstrip", warehouse: str | None = None, **settings: str) -> Path:
    """Write the inventory of a stack; `settings` are variables beside or instead of those of the template."""
    folder = path(lab, stack)
    (folder / "group_vars").mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copy(PRODUCTION / "groups.yml", folder)
    plugin = (PRODUCTION / "aws_ec2.yml").read_text().replace("tag:airstrip: airstrip", f"tag:airstrip: {stack}")
    (folder / "aws_ec2.yml").write_text(plugin)
    bigquery = (warehouse or lab.warehouse) == "bigquery"
    text = render(
        "inventory.yml.j2",
        stack=stack,
        region=REGION,
        instance_type={"x86_64": "t3.small", "arm64": "t4g.small"}[ARCHITECTURE],
        bucket=BUCKET,
        usernames=",".join(USERNAMES),
        gateway=lab.gateway,
        private_key=lab.private_key,
        public_key=lab.private_key.with_suffix(".pub"),
        known_hosts=lab.known_hosts,
        certificates=lab.certificates,
        authority=services.certificates.authority(lab).read_text(),
        aws=services.aws.endpoint(lab),
        s3=services.s3.endpoint(lab),
        x_api=services.x_api.endpoint(lab),
        x_api_token=services.x_api.bearer_token(lab),
        rates=services.shop.rates_endpoint(lab),
        orders_port=ORDERS_PORT,
        orders_reader=READER,
        orders_password=services.shop.orders_password(lab),
        smtp_port=SMTP_PORT,
        smtp_login=services.mail.LOGIN,
        smtp_password=services.mail.password(lab),
        domain=DOMAIN,
        backup_key=secret(lab, "backup_key", lambda: word(64)),
        s3_port=S3_PORT,
        bigquery=services.bigquery.endpoint(lab) if bigquery else "",
        project=services.bigquery.PROJECT,
    )
    file = folder / "group_vars" / "all.yml"
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(yaml.safe_load(text) | settings, sort_keys=False))
    return folder
