"""The doctor: each check says what is wrong and what mends it, and one that cannot look stops no other."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import sys
import time
from collections import namedtuple
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.error import URLError

import pytest

ROOT = Path(__file__).parents[2]
UNITS = [["airflow-triggerer.service"], ["nginx.service"]]
CERTIFICATE = "ssl_certificate /etc/nginx/tls/certificate.pem;"


def load(name: str) -> ModuleType:
    """A module of the playbooks, which finds its own utilities where Ansible would put them."""
    for utility in ("findings",):
        path = ROOT / f"playbooks/module_utils/{utility}.py"
        spec = importlib.util.spec_from_file_location(f"ansible.module_utils.{utility}", path)
        sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])
    spec = importlib.util.spec_from_file_location(name, ROOT / f"playbooks/library/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


inside, outside = load("doctor"), load("doctor_outside")
SICK = json.dumps({"sick": ["triggerer"]})
WELL = {
    "systemctl": (0, "active\n"),
    "airstrip": (0, json.dumps({"sick": []})),
    "airflow-run": (0, json.dumps({"migration_needed": False})),
    "runuser": (0, ""),
    "openssl": (0, "notAfter=Jan  1 00:00:00 2040 GMT"),
    "find": (0, ""),
    "needrestart": (0, "NEEDRESTART-VER: 3.11\n"),
}
Usage = namedtuple("Usage", "total used free")


class Host:
    """A host of which one thing may be wrong."""

    def __init__(self, monkeypatch) -> None:
        self.commands = dict(WELL)
        self.version = "3.3.2"
        self.usage = Usage(100 * 2**30, 2**30, 99 * 2**30)
        self.files = {"/etc/nginx/snippets/airflow-tls.conf": CERTIFICATE}
        self.clock = time.time()
        monkeypatch.setattr(inside.Doctor, "version", lambda doctor: self.answer())
        monkeypatch.setattr(shutil, "disk_usage", lambda path: self.usage)
        monkeypatch.setattr(inside, "Path", self.path)

    def answer(self) -> str:
        if not self.version:
            raise URLError("Connection refused")
        return self.version

    def path(self, name: str) -> SimpleNamespace:
        installed = Path("apache_airflow-3.3.2.dist-info")
        return SimpleNamespace(
            exists=lambda: name in self.files, read_text=lambda: self.files[name], glob=lambda _: [installed]
        )

    def run_command(self, command: list[str], **_) -> tuple[int, str, str]:
        if command[0] not in self.commands:
            raise FileNotFoundError(2, "No such file or directory")
        code, said = self.commands[command[0]]
        return code, said, ""

    def findings(self) -> dict[str, dict]:
        params = {"units": UNITS, "controller_time": self.clock, "administrator": "admin", "database": "airflow",
                  "certificate_days": 21, "components": ["api-server"]}  # fmt: skip
        doctor = inside.Doctor(SimpleNamespace(params=params, run_command=self.run_command))
        return {each["name"]: each for each in inside.examine({name: getattr(doctor, name) for name in inside.CHECKS})}


@pytest.fixture
def host(monkeypatch) -> Host:
    return Host(monkeypatch)


def test_a_host_that_is_well_has_no_finding(host):
    assert all(each["ok"] for each in host.findings().values())


def wrong(name: str, value):
    return lambda host: setattr(host, name, {**getattr(host, name), **value} if isinstance(value, dict) else value)


WRONG = {
    "units": (wrong("commands", {"systemctl": (3, "failed\n")}), "sudo systemctl start airflow-triggerer"),
    "health": (wrong("commands", {"airstrip": (1, SICK)}), "no heartbeat from triggerer"),
    "database": (wrong("commands", {"airflow-run": (0, '{"migration_needed": true}')}), "airflow db migrate"),
    "dags": (wrong("commands", {"runuser": (0, "a_dag.py: NameError")}), "a_dag.py: NameError"),
    "disk": (wrong("usage", Usage(100, 95, 5)), "nearly full: / 95 %"),
    "clock": (wrong("clock", 1.0), "chrony"),
    "certificate": (wrong("commands", {"openssl": (0, "notAfter=Jan  1 00:00:00 2020 GMT")}), "certbot renew"),
    "versions": (wrong("version", "3.2.0"), "Airflow 3.2.0 runs but 3.3.2 is installed"),
    "secrets": (wrong("commands", {"find": (0, "/etc/airflow/secrets/jwt_secret")}), "readable by others"),
    "libraries": (wrong("commands", {"needrestart": (0, "NEEDRESTART-SVC: nginx.service")}), "systemctl restart nginx"),
    "reboot": (wrong("files", {"/run/reboot-required": ""}), "playbooks/reboot.yml"),
}


@pytest.mark.parametrize("check", inside.CHECKS)
def test_each_check_fails_alone_and_names_the_fix(host, check):
    damage, words = WRONG[check]
    damage(host)
    findings = host.findings()
    assert [name for name, each in findings.items() if not each["ok"]] == [check]
    assert words in findings[check]["line"] and "fix: " in findings[check]["line"]


def test_what_cannot_be_looked_at_is_a_finding_and_stops_no_other(host):
    host.commands |= {"airflow-run": (1, "could not connect to server"), "runuser": (2, "could not connect to server")}
    host.commands["airstrip"] = (2, "")
    host.version = ""
    findings = host.findings()
    assert {name for name, each in findings.items() if not each["ok"]} == {"health", "database", "dags", "versions"}
    assert "could not connect to server" in findings["database"]["line"]


def test_a_command_that_is_missing_is_a_finding_and_stops_no_other(host):
    del host.commands["needrestart"]
    findings = host.findings()
    assert [name for name, each in findings.items() if not each["ok"]] == ["libraries"]
    assert "needrestart: No such file" in findings["libraries"]["line"]


def test_what_uses_an_old_library_is_restarted_as_it_can_bear(host):
    units = ["airflow-triggerer.service", "nginx.service", "dbus.service"]
    host.commands["needrestart"] = (0, "".join(f"NEEDRESTART-SVC: {unit}\n" for unit in units))
    fix = host.findings()["libraries"]["line"].partition("fix: ")[2]
    assert fix == "sudo airflow-restart; run playbooks/reboot.yml; sudo systemctl restart nginx.service"


class Door:
    """Answers of a host seen from outside."""

    def __init__(self, monkeypatch, **parameters) -> None:
        self.statuses: dict[str, int] = {"/auth/token": 201}
        self.open: set[int] = set()
        given = {"address": "192.0.2.1", "server_name": "airflow.example.com", "username": "admin", "password": "p"}
        self.doctor = outside.Doctor(
            {**given, "authorities": None, "certificate": None, "closed_ports": [5432], **parameters}
        )
        monkeypatch.setattr(self.doctor, "request", lambda method, path, body=None: self.answer(path))
        monkeypatch.setattr(self.doctor, "answers", lambda port: port in self.open)

    def answer(self, path: str) -> SimpleNamespace:
        return SimpleNamespace(status=self.statuses.get(path, 404), read=io.BytesIO().read)


def test_the_doors_are_seen_open(monkeypatch):
    door = Door(monkeypatch)
    door.doctor.login(), door.doctor.closed_paths(), door.doctor.closed_ports()
    door.statuses = {"/auth/token": 401, **dict.fromkeys(outside.CLOSED_PATHS, 200)}
    door.open = {5432}
    for check, words in (("login", "401"), ("closed_paths", "/auth/openapi.json"), ("closed_ports", "5432")):
        with pytest.raises(outside.Sick, match=words):
            getattr(door.doctor, check)()


def test_nobody_without_the_certificate_gets_the_password(monkeypatch):
    doctor = Door(monkeypatch).doctor
    assert doctor.context.check_hostname and doctor.context.verify_mode.name == "CERT_REQUIRED"
