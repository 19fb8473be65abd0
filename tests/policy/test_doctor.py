"""The doctor from outside: each check says what is wrong and what fixes it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    """A module of the playbooks, which finds its own utilities where Ansible would put them."""
    path = ROOT / "playbooks/module_utils/findings.py"
    spec = importlib.util.spec_from_file_location("ansible.module_utils.findings", path)
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])
    spec = importlib.util.spec_from_file_location(name, ROOT / f"playbooks/library/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


outside = load("doctor_outside")


class Door:
    """Answers of a host seen from outside."""

    def __init__(self, monkeypatch, **parameters) -> None:
        self.statuses: dict[str, int] = {"/auth/token": 201}
        self.open: set[int] = set()
        given = {"address": "192.0.2.1", "server_name": "airflow.example.com", "username": "admin", "password": "p"}
        given |= {"asked": 100.0, "answered": 100.5}
        self.doctor = outside.Doctor(
            {**given, "authorities": None, "certificate": None, "closed_ports": [5432], **parameters}
        )
        monkeypatch.setattr(self.doctor, "request", lambda method, path, body=None: self.answer(path))
        monkeypatch.setattr(self.doctor, "answers", lambda port: port in self.open)

    def answer(self, path: str) -> SimpleNamespace:
        return SimpleNamespace(status=self.statuses.get(path, 404), read=io.BytesIO().read)


def test_open_doors_are_noticed(monkeypatch):
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


@pytest.mark.parametrize(("answered", "words"), [(90.0, "10 s away"), (160.0, "59 s away"), (100.5, "")])
def test_only_a_wrong_clock_fails_however_slow_the_answer(monkeypatch, answered, words):
    doctor = Door(monkeypatch, answered=answered).doctor
    monkeypatch.setattr(outside.time, "time", lambda: 101.0)
    with pytest.raises(outside.Sick, match=words) if words else contextlib.nullcontext():
        doctor.clock()
