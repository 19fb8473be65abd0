"""What the instances reach on the lab's own address: one file for each service."""

from __future__ import annotations

from lab.services import aws, bigquery, certificates, mail, s3, shop, x_api
from lab.settings import Lab


def up(lab: Lab) -> None:
    """Start all services; BigQuery only where it is the lab's warehouse."""
    for service in (certificates, s3, aws, x_api, mail, shop):
        service.up(lab)
    if lab.warehouse == "bigquery":
        bigquery.up(lab)
