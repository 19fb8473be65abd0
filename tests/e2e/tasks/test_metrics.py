"""Prometheus reads the server's figures through nginx; the shipped rules and dashboard ask for what is there."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest
import requests

from tests.prometheus import EXAMPLES, FOLDER, asked, beside, put
from tests.server import Server, wait_until

PASSWORD = secrets.token_hex(16)
TAGS = ["--tags", "airflow,metrics,nginx,watch"]
# What a host of the lab may lack: cgroup v2, and a disk of its own.
NOT_IN_THE_LAB = ("airstrip_unit_memory_bytes", "airstrip_unit_cpu_seconds_total", "node_filesystem_avail_bytes")
EXPORTERS = "prometheus-node-exporter.service collectd.service"


@pytest.fixture(scope="module")
def measured(server) -> Iterator[Server]:
    """The server with its figures published, and Debian's Prometheus beside it, which reads them."""
    given = [*TAGS, "-e", json.dumps({"metrics_password": PASSWORD})]
    assert server.play("site.yml", *given).changed > 0
    assert server.play("site.yml", *given).changed == 0
    with beside(server, PASSWORD):
        put(server, f"{FOLDER}/rules_test.yml", (EXAMPLES / "rules_test.yml").read_text())
        yield server
    assert server.play("site.yml", *TAGS).changed > 0
    assert server.run(f"systemctl is-active {EXPORTERS}", check=False).split() == ["inactive", "inactive"]


def test_the_figures_need_the_password(measured):
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
