"""The inventory that Ansible reads: production's own, with the lab's endpoints and credentials."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from lab import services
from lab.settings import ARCHITECTURE, BUCKET, ORDERS_PORT, REGION, SMTP_PORT, USERNAMES, Lab
from lab.shop.database import READER

PRODUCTION = Path(__file__).parent.parent / "inventory" / "production"


def path(lab: Lab, stack: str = "airstrip") -> Path:
    """The folder to give to `ansible-playbook -i`."""
    return lab.inventory / stack


def write(lab: Lab, stack: str = "airstrip", warehouse: str | None = None, **settings: str) -> Path:
    """Write the inventory of a stack; `settings` are variables beside or instead of these."""
    folder = path(lab, stack)
    (folder / "group_vars").mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copy(PRODUCTION / "groups.yml", folder)
    plugin = (PRODUCTION / "aws_ec2.yml").read_text().replace("tag:airstrip: airstrip", f"tag:airstrip: {stack}")
    (folder / "aws_ec2.yml").write_text(plugin)
    authority = services.authority(lab)
    variables = {
        "aws_name": stack,
        "aws_region": REGION,
        "aws_instance_type": {"x86_64": "t3.small", "arm64": "t4g.small"}[ARCHITECTURE],
        "aws_public_key_file": str(lab.private_key.with_suffix(".pub")),
        "aws_ssh_cidrs": [f"{lab.gateway}/32"],
        "aws_bucket": BUCKET,
        "ansible_ssh_private_key_file": str(lab.private_key),
        "ansible_ssh_extra_args": f"-o UserKnownHostsFile={lab.known_hosts} -o IdentitiesOnly=yes",
        "base_certificate_authorities": [authority.read_text()],
        # The tests guess passwords from there.
        "base_never_banned": [f"{lab.gateway}/32"],
        "nginx_certificate": "supplied",
        "nginx_certificate_file": f"{lab.certificates}/{{{{ ansible_host }}}}.pem",
        "nginx_certificate_key_file": f"{lab.certificates}/{{{{ ansible_host }}}}.key",
        "airflow_variables": {
            "x_usernames": ",".join(USERNAMES),
            "x_bucket": "{{ aws_bucket }}",
            # The stand-in's posts are never edited: a run just after midnight need not wait.
            "x_settle_minutes": "1",
            "failure_notices": {"mail": ["ops@lab"]},
            "report_bucket": "{{ aws_bucket }}",
            "report_recipients": "management@lab",
        },
        "airflow_pools": {"x_api": 2},
        # The machine has the memory of its type, and says that it has the controller's.
        "airflow_task_memory": 600,
        # All machines share it, and no virtualenv can share its files.
        "airflow_package_cache_mb": 100_000,
        "airflow_connections": {
            "x_api": {
                "conn_type": "http",
                "host": services.x_api_endpoint(lab),
                "password": services.x_bearer_token(lab),
            },
            "orders": {
                "conn_type": "postgres",
                "host": lab.gateway,
                "port": ORDERS_PORT,
                "login": READER,
                "password": services.orders_password(lab),
                "schema": "orders",
                "extra": {"sslmode": "verify-full", "sslrootcert": "/etc/ssl/certs/ca-certificates.crt"},
            },
            "exchange_rates": {"conn_type": "http", "host": services.rates_endpoint(lab)},
            "smtp_default": {
                "conn_type": "smtp",
                "host": lab.gateway,
                "port": SMTP_PORT,
                "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@lab"},
            },
        },
        "airflow_task_environment": {
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": services.aws_endpoint(lab),
            "AWS_ENDPOINT_URL_S3": services.s3_endpoint(lab),
        },
        **settings,
    }
    if (warehouse or lab.warehouse) == "bigquery":
        variables["airflow_extras"] = ["bigquery"]
        variables["airflow_variables"]["report_warehouse"] = "bigquery"
        extra = {"project": services.BIGQUERY_PROJECT, "is_anonymous": True}
        variables["airflow_connections"]["warehouse"] = {"conn_type": "google_cloud_platform", "extra": extra}
        variables["airflow_task_environment"]["BIGQUERY_EMULATOR_HOST"] = services.bigquery_endpoint(lab)
    file = folder / "group_vars" / "all.yml"
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(variables, sort_keys=False))
    return folder
