"""What Prometheus and CloudWatch are told."""

from __future__ import annotations

import json
from types import SimpleNamespace

import boto3
import pytest
from moto import mock_aws

from airstrip.release.folder import MANIFEST
from airstrip.watch import cloudwatch, metrics
from airstrip.watch.sessions import NoDatabase

UNITS = [["airflow-scheduler@a.service", "airflow-scheduler@b.service"], ["nginx.service"]]
NAMES = ("Id", "ActiveState", "MemoryCurrent", "CPUUsageNSec", "NRestarts")
SHOWN = [
    dict(zip(NAMES, (UNITS[0][0], "active", "1048576", "1500000000", "2"), strict=True)),
    dict(zip(NAMES, (UNITS[0][1], "inactive", "[not set]", str(2**64 - 1), "0"), strict=True)),
]
ROWS = [
    ["airflow_tasks", '{"state": "running", "queue": "a \\"big\\"\\tone"}', "3"],
    ["airflow_tasks", '{"state": "queued", "queue": "default"}', "0"],
    ["airflow_oldest_waiting_seconds", "{}", "12.5"],
]
STATUS = "Active connections: 3 \nserver accepts handled requests\n 10 10 25 \nReading: 0 Writing: 1 Waiting: 2 \n"
SETTINGS = SimpleNamespace(units=UNITS, database="airflow")


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with one release, whose nginx and PostgreSQL answer."""
    (tmp_path / "releases" / "first").mkdir(parents=True)
    (tmp_path / "releases" / "first" / MANIFEST).touch()
    (tmp_path / "current").symlink_to("releases/first")
    (tmp_path / "state.json").write_text(
        json.dumps({"looked": {"disk": {"ok": True, "at": 1}, "backup": {"ok": False, "at": 1}}})
    )
    monkeypatch.setattr(metrics, "ROOT", tmp_path)
    monkeypatch.setattr(metrics, "LOOKED", tmp_path / "state.json")
    monkeypatch.setattr(metrics, "FILE", tmp_path / "airstrip.prom")
    monkeypatch.setattr(metrics, "done", lambda since: [{}, {}])
    monkeypatch.setattr(metrics, "properties", lambda units, names: SHOWN)
    monkeypatch.setattr(metrics, "ask", lambda query, database: ROWS)
    answer = SimpleNamespace(read=lambda: STATUS.encode())
    monkeypatch.setattr(metrics.urllib.request, "urlopen", lambda address, timeout: answer)
    return tmp_path


def told(host) -> dict[str, float]:
    metrics.tell(SETTINGS)
    lines = (host / "airstrip.prom").read_text().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def test_each_figure_has_its_labels_and_each_name_one_type(host):
    found = told(host)
    assert found['airstrip_release{release="first"}'] == 1
    scheduler = '{unit="airflow-scheduler@a.service",component="airflow-scheduler"}'
    assert found[f"airstrip_unit_up{scheduler}"] == 1
    assert found[f"airstrip_unit_memory_bytes{scheduler}"] == 2**20
    assert found[f"airstrip_unit_cpu_seconds_total{scheduler}"] == 1.5
    assert found[f"airstrip_unit_restarts_total{scheduler}"] == 2
    # What systemd does not know is no figure.
    other = scheduler.replace("@a", "@b")
    assert found[f"airstrip_unit_up{other}"] == 0
    assert f"airstrip_unit_memory_bytes{other}" not in found and f"airstrip_unit_cpu_seconds_total{other}" not in found
    assert (found['airstrip_check_ok{check="disk"}'], found['airstrip_check_ok{check="backup"}']) == (1, 0)
    assert found["airstrip_healed_last_day{}"] == 2
    assert found["postgresql_up{}"] == found["nginx_up{}"] == 1
    assert found['airflow_tasks{state="running",queue="a \\"big\\"\tone"}'] == 3
    assert found['airstrip_check_age_seconds{check="disk"}'] > 10**9
    assert found["nginx_requests_total{}"] == 25 and found['nginx_connections{state="active"}'] == 3
    text = (host / "airstrip.prom").read_text()
    types = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types)) and "# TYPE nginx_requests_total counter\n" in text


def test_a_silent_service_is_down_and_hides_no_other(host, monkeypatch):
    def silent(*_, **__):
        raise NoDatabase

    def refused(*_, **__):
        raise ConnectionRefusedError

    monkeypatch.setattr(metrics, "ask", silent)
    monkeypatch.setattr(metrics.urllib.request, "urlopen", refused)
    monkeypatch.setattr(metrics, "LOOKED", host / "nothing")
    (host / "current").unlink()
    found = told(host)
    assert found["postgresql_up{}"] == found["nginx_up{}"] == 0
    assert found['airstrip_release{release="none"}'] == 1
    assert any(name.startswith("airstrip_unit_up") for name in found)
    assert not any(name.startswith(("airflow_", "nginx_c", "airstrip_check")) for name in found)


def test_cloudwatch_is_told_a_few_of_them(host, monkeypatch):
    metrics.tell(SETTINGS)
    monkeypatch.setattr(cloudwatch, "FIGURES", host / "airstrip.prom")
    monkeypatch.setenv("AIRSTRIP_NAMESPACE", "Airstrip")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    with mock_aws():
        cloudwatch.main()
        known = boto3.client("cloudwatch").list_metrics(Namespace="Airstrip")["Metrics"]
    names = {each["MetricName"] for each in known}
    assert names == {"DiskUsed", "TasksRunning", "TasksQueued", "OldestWaiting", "ChecksFailed", "DatabaseUp"}
    assert {one["Name"] for each in known for one in each["Dimensions"]} == {"Host"}
    values = {each["MetricName"]: each["Value"] for each in cloudwatch.data((host / "airstrip.prom").read_text(), "h")}
    assert (values["TasksRunning"], values["ChecksFailed"], values["OldestWaiting"]) == (3, 1, 12.5)
    assert 0 < values["DiskUsed"] < 100
