"""Prometheus reads the server's figures through nginx; the shipped rules and dashboard ask for what is there."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
import requests

from tests.server import ROOT, Server, wait_until

EXAMPLES = ROOT / "examples/prometheus"
FOLDER = "/etc/prometheus"
PASSWORD = secrets.token_hex(16)
TAGS = ["--tags", "airflow,metrics,nginx,watch"]
ASK = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9090/api/v1/query?' + {}).read().decode())"
# What a host of the lab may lack: cgroup v2, and a disk of its own.
NOT_IN_THE_LAB = ("airstrip_unit_memory_bytes", "airstrip_unit_cpu_seconds_total", "node_filesystem_avail_bytes")
EXPORTERS = "prometheus-node-exporter.service collectd.service"


@pytest.fixture(scope="module")
def measured(server) -> Iterator[Server]:
    """The server with its figures published, and Debian's Prometheus beside it, which reads them."""
    given = [*TAGS, "-e", json.dumps({"metrics_password": PASSWORD})]
    assert server.play("site.yml", *given).changed > 0
    assert server.play("site.yml", *given).changed == 0
    server.run("DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends prometheus")
    settings = (EXAMPLES / "prometheus.yml").read_text().replace("airflow.example.com", server.address)
    put(server, f"{FOLDER}/prometheus.yml", settings.replace("interval: 30s", "interval: 5s"))
    put(server, f"{FOLDER}/rules.yml", (EXAMPLES / "rules.yml").read_text())
    put(server, f"{FOLDER}/rules_test.yml", (EXAMPLES / "rules_test.yml").read_text())
    put(server, f"{FOLDER}/airstrip_password", PASSWORD)
    # An instance does not reach its own public address.
    server.run(f"ip address replace {server.address}/32 dev lo")
    server.run(f"cp /etc/nginx/tls/certificate.pem {FOLDER}/airstrip.pem && systemctl restart prometheus")
    yield server
    server.run(f"apt-get purge --yes prometheus; ip address delete {server.address}/32 dev lo")
    assert server.play("site.yml", *TAGS).changed > 0
    assert server.run(f"systemctl is-active {EXPORTERS}", check=False).split() == ["inactive", "inactive"]


def put(server: Server, path: str, text: str) -> None:
    server.run(f"cat > {path}", stdin=text)


def asked(server: Server, expression: str) -> list[dict]:
    """What Prometheus answers."""
    said = server.run("python3 -", stdin=ASK.format(json.dumps(urlencode({"query": expression}))), check=False)
    return json.loads(said)["data"]["result"] if said.startswith('{"status":"success"') else []


def test_only_who_has_the_password_reads_them(measured):
    for name in ("host", "airflow"):
        address = f"{measured.url}/metrics/{name}"
        assert requests.get(address, verify=False, timeout=60).status_code == 401
        assert requests.get(address, auth=("metrics", "wrong"), verify=False, timeout=60).status_code == 401
        assert requests.post(address, auth=("metrics", PASSWORD), verify=False, timeout=60).status_code == 403
        found = requests.get(address, auth=("metrics", PASSWORD), verify=False, timeout=60)
        assert found.status_code == 200 and "# TYPE" in found.text
    assert not any(measured.answers(port) for port in (8081, 9100, 9103))


def test_prometheus_finds_what_every_panel_asks_for(measured):
    wait_until(
        lambda: len(asked(measured, 'up{job=~"airstrip.*"} == 1')) == 2, 120, "a target does not answer", every=3
    )
    panels = json.loads((EXAMPLES / "dashboard.json").read_text())["panels"]
    wanted = {target["expr"] for panel in panels for target in panel.get("targets", [])}
    wanted = {expression for expression in wanted if not any(name in expression for name in NOT_IN_THE_LAB)}
    assert len(wanted) > 20

    def missing() -> list[str]:
        """A rate wants two samples, and a round of the scheduler is told once it is over."""
        wanted.difference_update({expression for expression in wanted if asked(measured, expression)})
        return sorted(wanted)

    wait_until(lambda: not missing(), 240, missing, every=5)
    units = {each["metric"]["component"]: each["value"][1] for each in asked(measured, "airstrip_unit_up == 1")}
    assert {"airflow-api-server", "airflow-scheduler", "airflow-runner", "nginx", "postgresql"} <= set(units)


def test_the_rules_tell_of_each_fault_and_of_nothing_else(measured):
    said = measured.run(f"cd {FOLDER} && promtool check config prometheus.yml && promtool test rules rules_test.yml")
    assert "17 rules found" in said
    # The server has what the rules are about; but a container's clock is its host's.
    names = ("airflow_heartbeat_age_seconds", "airstrip_check_ok", "airstrip_check_age_seconds")
    wait_until(lambda: all(asked(measured, name) for name in names), 120, "a figure of the rules is absent", every=5)
