"""Debian 12 takes a shorter path, with a certificate by ACME from Debian's pebble."""

from __future__ import annotations

import json
import ssl
from datetime import date, timedelta
from decimal import Decimal

import pytest
import yaml

from lab import services
from lab.run import start, stop, wait_for
from lab.settings import BUCKET
from lab.shop import database, seed
from tests import expected_sales
from tests.e2e import runs
from tests.server import Server, wait_until

DOMAIN = "airflow.lab.test"


@pytest.fixture(scope="module")
def machine(lab, place) -> Server:
    """A Debian 12 machine with nothing on it, with BigQuery as its warehouse and secrets in Parameter Store."""
    services.bigquery.up(lab)
    settings = {"aws_debian_release": "12", "airflow_secrets_backend": "parameter-store"}
    machine = place.server("debian12", warehouse="bigquery", **settings)
    machine.play("provision.yml")
    return machine


@pytest.fixture(scope="module")
def pebble(lab, machine):
    """An ACME authority on the lab's address, whose resolver knows the test's domain."""
    folder = lab.state / "pebble"
    folder.mkdir(exist_ok=True)
    certificate = lab.certificates / "services"
    settings = {
        "pebble": {
            "listenAddress": f"{lab.gateway}:14000",
            "managementListenAddress": f"{lab.gateway}:15000",
            "certificate": f"{certificate}.pem",
            "privateKey": f"{certificate}.key",
            "httpPort": 80,
            "tlsPort": 443,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
        }
    }
    (folder / "pebble.json").write_text(json.dumps(settings))
    resolver = ["pebble-challtestsrv", "-dns01", f"{lab.gateway}:8053", "-management", f"{lab.gateway}:8055"]
    resolver += ["-defaultIPv4", machine.address, "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]
    start(folder / "resolver.pid", resolver)
    authority = ["pebble", "-config", str(folder / "pebble.json"), "-dnsserver", f"{lab.gateway}:8053"]
    start(folder / "pebble.pid", authority, {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"})
    wait_for("pebble", lambda: services.server.listens(lab, 14000), 60, folder / "pebble.log")
    yield f"https://{lab.gateway}:14000/dir"
    for name in ("pebble", "resolver"):
        stop(folder / f"{name}.pid")


@pytest.fixture(scope="module")
def server(machine, pebble) -> Server:
    """Deployed to from nothing, with the variables that a user with a domain sets."""
    lab = yaml.safe_load((machine.inventory / "group_vars" / "all.yml").read_text())
    connections = lab["airflow_connections"]
    secret = {"Name": "/airflow/connections/x_api", "Value": json.dumps(connections.pop("x_api"))}
    machine.aws("ssm").put_parameter(**secret, Type="SecureString")
    variables = {
        "airflow_connections": connections,
        "airflow_extras": ["bigquery", "parquet"],
        "airflow_variables": {**lab["airflow_variables"], "x_output_formats": "csv,parquet"},
        "nginx_server_names": [DOMAIN],
        "nginx_certificate": "acme",
        "nginx_acme_email": "operator@lab.test",
        "nginx_acme_directory": pebble,
        # BigQuery's packages are imported for the first time, beside other tests.
        "release_import_seconds": 30,
    }
    (machine.inventory / "group_vars" / "airstrip.json").write_text(json.dumps(variables))
    machine.play("site.yml")
    return machine


def test_the_certificate_is_of_the_acme_authority(server):
    live = f"/etc/letsencrypt/live/{DOMAIN}/fullchain.pem"
    text = server.run(f"openssl x509 -noout -issuer -ext subjectAltName -in {live}")
    assert "Pebble" in text and f"DNS:{DOMAIN}" in text
    served = ssl.get_server_certificate((server.address, 443))
    assert served.strip() in server.run(f"cat {live}")


def test_it_renews_and_nginx_takes_the_new_one(server):
    before = ssl.get_server_certificate((server.address, 443))
    trust = "REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt"
    server.run(f"{trust} certbot renew --force-renewal --no-random-sleep-on-renew --quiet")

    # A reload returns before the old workers of nginx are gone.
    def renewed() -> bool:
        return ssl.get_server_certificate((server.address, 443)) != before

    wait_until(renewed, 60, "nginx still serves the old certificate")


def test_second_run_changes_nothing(server):
    play = server.play("site.yml")
    assert play.changed == 0, play.changed_tasks


def test_units_are_sandboxed_and_the_dag_reads_its_token_from_parameter_store(server):
    server.run("systemd-analyze security --no-pager --threshold=18 airflow-runner@a.service")
    assert server.run("grep -c AIRFLOW_CONN_ /etc/airflow/secrets/tasks.env") != "0\n"
    server.run("! grep -q X_API /etc/airflow/secrets/tasks.env")
    server.play("run.yml", "-e", "dag=twitter")
    files = [key for key in runs.keys(server, "curated/x/posts_parquet/") if key.endswith("posts.parquet")]
    assert len(files) == 3
    for key in files:
        content = server.aws("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read()
        assert content[:4] == content[-4:] == b"PAR1"


def bigquery(server, query: str) -> list[list[str]]:
    """Ask the emulator, past Airflow."""
    url = f"{services.bigquery.endpoint(server.lab)}/bigquery/v2/projects/{services.bigquery.PROJECT}/queries"
    answer = server.session().post(url, json={"query": query, "useLegacySql": False})
    assert answer.status_code == 200, answer.text
    return [[cell["v"] for cell in row["f"]] for row in answer.json().get("rows", [])]


def ended(server, clears: int) -> str:
    """Wait for the end of the daily run that was cleared so often; return its state."""
    mine = f"dag_id = 'daily_report' AND clear_number = {clears}"
    query = f"SELECT state FROM dag_run WHERE {mine} AND state IN ('success', 'failed')"
    return wait_until(lambda: server.sql(query), 300, "the run does not end", every=1)


def sales(server, day: date) -> list[tuple[str, ...]]:
    """What BigQuery has of a day."""
    query = (
        "select cast(day as string), channel, sale_id, format_timestamp('%F %T', sold_at), country, currency, amount, "
        f"amount_eur, status from report.sales where day = '{day}'"
    )
    rows = bigquery(server, query)
    return sorted((*row[:6], f"{Decimal(row[6]):.2f}", f"{Decimal(row[7]):.2f}", row[8]) for row in rows)


@pytest.mark.long
def test_the_report_keeps_its_sales_in_bigquery(server):
    # By the command line: nginx has the certificate of another authority here.
    day = runs.TODAY - timedelta(days=1)
    database.deliver(server.lab, BUCKET, day)
    server.run("airflow dags unpause daily_report 2>&1")
    assert ended(server, clears=0) == "success"
    expected = sorted(expected_sales.sales(day, seed.turn(day)))
    assert sales(server, day) == expected and len(runs.mails(server, f"Daily report {day}")) == 1


@pytest.mark.long
def test_a_day_that_is_run_again_is_the_same_in_bigquery(server):
    day = runs.TODAY - timedelta(days=1)
    before = sales(server, day)
    assert before
    server.run(f"airflow tasks clear --yes --start-date {day} --end-date {day} daily_report 2>&1")
    assert ended(server, clears=1) == "success"
    assert sales(server, day) == before and len(runs.mails(server, f"Daily report {day}")) == 1
    assert bigquery(server, "select table_name from report.INFORMATION_SCHEMA.TABLES") == [["sales"]]
