"""The doctor on the host: each check says what is wrong and what fixes it, and one that cannot look stops no other."""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError, URLError

import pytest

from airstrip.watch import command, dags, probes
from airstrip.watch import doctor as inside
from airstrip.watch.findings import Settings
from airstrip.watch.sessions import NoDatabase

TODAY = time.strftime("%Y-%m-%d", time.gmtime())
UNITS = [["airflow-triggerer.service"], ["nginx.service"]]
CERTIFICATE = "ssl_certificate /etc/nginx/tls/certificate.pem;"
BILL = {
    "bucket": "b",
    "as_of": "2026-11-21 01:07",
    "month": "1.23",
    "today": "0.05",
    "users": {"ada": "1.00", "7": "0.23"},
}


def states(triggerer: str = "active", heal: str = "active", clean: str = "inactive") -> str:
    """What systemd says of all units."""
    known = {"airflow-triggerer": triggerer, "airstrip-heal": heal, "airstrip-clean": clean, "nginx": "active"}
    return "".join(f"{unit}.service loaded {state} dead A unit\n" for unit, state in known.items())


WELL = {
    "systemctl": (0, states()),
    "airflow-run": (0, json.dumps({"migration_needed": False})),
    "spending.py": (0, json.dumps(BILL)),
    "archiver": (0, "12"),
    "psql": (0, ""),
    "late": (0, ""),
    "dags": (0, f"twitter|f|30|2026-01-01|{TODAY}\nhourly|f|30|9999|\n"),
    "openssl": (0, "notAfter=Jan  1 00:00:00 2040 GMT"),
    "find": (0, ""),
    "needrestart": (0, "NEEDRESTART-VER: 3.11\n"),
}
DRILL = "/var/lib/airstrip-drill/result.json"
Usage = namedtuple("Usage", "total used free")


def backup(hours: float) -> tuple[int, str]:
    """What pgBackRest tells of one backup, so many hours old."""
    return 0, json.dumps([{"backup": [{"timestamp": {"stop": time.time() - hours * 3600}}]}])


def drill(ok: bool, days: float) -> str:
    """What a trial left on the host, so many days ago."""
    return json.dumps({"at": time.time() - days * 86400, "ok": ok, "seconds": 9, "said": "12 runs and 99 tasks"})


class Host:
    """A host of which one thing may be wrong."""

    def __init__(self, monkeypatch) -> None:
        self.commands = WELL | {"pgbackrest": backup(2.1)}
        self.version, self.sick = "3.3.2", []
        self.usage = Usage(100 * 2**30, 2**30, 99 * 2**30)
        self.files = {"/etc/nginx/snippets/airflow-tls.conf": CERTIFICATE, DRILL: drill(True, 2)}
        self.files |= {probes.TASK_KEY: "key\n", probes.CONFIGURATION: "[execution_api]\njwt_audience = tasks\n"}
        self.refuses, self.done = 0, []
        self.full, self.slower, self.busy = 99.0, None, False
        self.asked: list = []
        monkeypatch.setattr(inside.Doctor, "run", lambda doctor, command: self.run(command))
        monkeypatch.setattr(inside.Doctor, "sick", lambda doctor: self.sick)
        monkeypatch.setattr(inside, "ask", self.ask)
        monkeypatch.setattr(probes.urllib.request, "urlopen", self.urlopen)
        monkeypatch.setattr(probes, "Path", self.path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: self.usage)
        monkeypatch.setattr(inside, "Path", self.path)
        monkeypatch.setattr(inside, "done", lambda since: [each for each in self.done if each["at"] > since])
        monkeypatch.setattr(inside, "somebody_is_at_it", lambda now: self.busy)
        monkeypatch.setattr(inside, "full_in_days", lambda: self.full)
        monkeypatch.setattr(inside, "slower_since", lambda: self.slower)
        monkeypatch.setattr(inside, "last_words", lambda unit: "KeyError: 'smtp_default'")

    def urlopen(self, request, timeout: float):
        self.asked.append(request)
        if not self.version:
            raise URLError("Connection refused")
        if "/execution/" in request.full_url and self.refuses:
            raise HTTPError(request.full_url, self.refuses, "Invalid auth token", None, None)
        return io.BytesIO(json.dumps({"version": self.version}).encode())

    def path(self, name: str) -> SimpleNamespace:
        installed = Path("apache_airflow-3.3.2.dist-info")
        return SimpleNamespace(
            exists=lambda: name in self.files, read_text=lambda: self.files[name], glob=lambda _: [installed]
        )

    def ask(self, query: str, database: str) -> list[list[str]]:
        code, said, _ = self.run(["psql", query])
        if code:
            raise NoDatabase(f"it said {said}")
        return [line.split("|") for line in said.splitlines()]

    def run(self, command: list[str]) -> tuple[int, str, str]:
        # `airflow-run` begins several programs.
        told_by = {
            "spending.py": "/spending.py",
            "archiver": "pg_ls_archive_statusdir",
            "pgbackrest": "--stanza=main",
            "late": "interval '5 min'",
            "dags": "is_paused",
        }
        name = next((name for name, word in told_by.items() if word in " ".join(command)), command[0])
        if name not in self.commands:
            raise FileNotFoundError(2, "No such file or directory")
        code, said = self.commands[name]
        return code, said, ""

    def findings(self) -> dict[str, SimpleNamespace]:
        wanted = {"twitter": "00:00", "hourly": ""}
        settings = Settings(UNITS, ["api-server"], "admin", "airflow", 21, True, wanted)
        return {each.name: each for each in command.examine(inside.Doctor(settings), inside.CHECKS)}


@pytest.fixture
def host(monkeypatch) -> Host:
    return Host(monkeypatch)


def test_a_host_that_is_well_has_no_finding(host):
    assert all(each.ok for each in host.findings().values())


def wrong(name: str, value):
    return lambda host: setattr(host, name, {**getattr(host, name), **value} if isinstance(value, dict) else value)


WRONG = {
    "units": (
        wrong("commands", {"systemctl": (0, states(triggerer="failed"))}),
        "which said last: KeyError: 'smtp_default'; fix: sudo systemctl start airflow-triggerer",
    ),
    "jobs": (wrong("commands", {"systemctl": (0, states(clean="failed"))}), "journalctl -eu airstrip-clean"),
    "healing": (wrong("commands", {"systemctl": (0, states(heal="inactive"))}), "sudo systemctl start airstrip-heal"),
    "health": (wrong("sick", ["triggerer"]), "no heartbeat from triggerer"),
    "tokens": (wrong("refuses", 403), "answers 403 to a task's token; fix: sudo airflow-restart api-server scheduler"),
    "database": (wrong("commands", {"airflow-run": (0, '{"migration_needed": true}')}), "airflow db migrate"),
    "dags": (wrong("commands", {"psql": (0, "a_dag.py: NameError")}), "a_dag.py: NameError"),
    "pipelines": (
        wrong("commands", {"dags": (0, "twitter|t|30|9999|\nhourly|f|30|9999|")}),
        "twitter is paused; fix: sudo airflow dags unpause",
    ),
    "disk": (wrong("usage", Usage(100, 95, 5)), "nearly full: / 95 %"),
    "trends": (wrong("full", 5.2), "the disk is full in 5 days, as it fills now; fix: sudo du"),
    "certificate": (wrong("commands", {"openssl": (0, "notAfter=Jan  1 00:00:00 2020 GMT")}), "certbot renew"),
    "versions": (wrong("version", "3.2.0"), "Airflow 3.2.0 runs but 3.3.2 is installed"),
    "secrets": (wrong("commands", {"find": (0, "/etc/airflow/secrets/jwt_secret")}), "readable by others"),
    "libraries": (wrong("commands", {"needrestart": (0, "NEEDRESTART-SVC: nginx.service")}), "systemctl restart nginx"),
    "spending": (wrong("commands", {"spending.py": (1, "s3://b/k: AccessDenied")}), "s3://b/k: AccessDenied"),
    "history": (wrong("commands", {"archiver": (0, "46")}), "pgbackrest --stanza=main check"),
    "backup": (wrong("commands", {"pgbackrest": backup(27)}), "run playbooks/backup.yml"),
    "drill": (wrong("files", {DRILL: drill(False, 2)}), "journalctl -u airstrip-drill"),
    "reboot": (wrong("files", {"/run/reboot-required": ""}), "playbooks/reboot.yml"),
}


@pytest.mark.parametrize("check", inside.CHECKS)
def test_each_check_fails_alone_and_names_the_fix(host, check):
    damage, words = WRONG[check]
    damage(host)
    findings = host.findings()
    assert [name for name, each in findings.items() if not each.ok] == [check]
    assert words in findings[check].line and "fix: " in findings[check].line


def test_replacements_are_reported_and_too_many_are_wrong(host):
    at = time.time() - 60
    host.done = [{"at": 0, "unit": "nginx", "what": "long ago"}, {"at": at, "unit": "nginx", "what": "replaced"}]
    utc = time.strftime("%H:%M", time.gmtime(at))
    assert f"1 times since yesterday, last nginx at {utc} UTC, replaced" in host.findings()["healing"].line
    host.busy = True
    assert "paused while a playbook works on this host" in host.findings()["healing"].line
    host.busy = False
    host.done *= inside.OFTEN
    assert "fix: look for what nginx meets" in host.findings()["healing"].line


def test_an_overdue_run_is_reported(host):
    host.commands["late"] = (0, "twitter")
    assert "no run was created of twitter; fix: journalctl -eu 'airflow-scheduler@*'" in host.findings()["dags"].line


def test_a_release_that_is_slower_to_read_is_named(host):
    assert host.findings()["trends"].line.endswith("the disk is full in 99 days, as it fills now")
    host.slower = (1.6, "20261130T000000Z-0123456789ab")
    assert "1.6 times as long to read since release 20261130T000000Z" in host.findings()["trends"].line


def test_a_tasks_token_says_what_the_configuration_says(host):
    host.findings()
    request = host.asked[0]
    header, claims, _ = (
        base64.urlsafe_b64decode(part + "==") for part in request.headers["Authorization"].split()[1].split(".")
    )
    assert json.loads(header)["alg"] == "HS512"
    said = json.loads(claims)
    assert said["aud"] == "tasks" and "iss" not in said and said["exp"] - time.time() < 61


def test_how_the_database_grows_is_told_from_week_to_week(host):
    assert host.findings()["database"].line.endswith("at the revision that this Airflow needs")
    weeks = [f"2026-{month:02}-01,{100 + month},2" for month in range(1, 15)]
    host.files[inside.SIZES] = "\n".join([*weeks, "2026-11-29,212,3"])
    assert (
        "; 212 MB on 2026-11-29, 109 more than on 2026-03-01, 3 % of its rows dead" in host.findings()["database"].line
    )


def test_a_check_that_cannot_run_is_a_finding_and_stops_no_other(host):
    host.commands |= {"airflow-run": (1, "could not connect to server"), "psql": (2, "could not connect to server")}
    host.version = ""
    findings = host.findings()
    assert {name for name, each in findings.items() if not each.ok} == {"tokens", "database", "dags", "versions"}
    assert "could not connect to server" in findings["database"].line


def test_a_command_that_is_missing_is_a_finding_and_stops_no_other(host):
    del host.commands["needrestart"]
    findings = host.findings()
    assert [name for name, each in findings.items() if not each.ok] == ["libraries"]
    assert "needrestart: No such file" in findings["libraries"].line


def test_what_x_has_charged_is_said_by_user(host):
    said = "X charged 1.23 USD this month as of 2026-11-21 01:07, 0.05 of it today; most for ada 1.00, 7 0.23"
    assert said in host.findings()["spending"].line
    for answer, words in (
        ({"bucket": ""}, "x_bucket is not among"),
        ({"bucket": "b"}, "has no bill of this month yet"),
    ):
        host.commands["spending.py"] = (0, json.dumps(answer))
        assert words in host.findings()["spending"].line


def test_backups_are_looked_at_from_both_ends(host):
    assert "reaches the bucket" in host.findings()["history"].line
    assert "the newest of 1 is 2 h old" in host.findings()["backup"].line
    for told in ((0, json.dumps([{"backup": []}])), backup(27)):
        host.commands["pgbackrest"] = told
        assert "no backup since yesterday" in host.findings()["backup"].line


def test_a_backup_is_worth_what_its_last_trial_was(host):
    assert "restored 2 days ago in 9 s, 12 runs and 99 tasks" in host.findings()["drill"].line
    host.files[DRILL] = drill(True, 9)
    assert "the last trial was 9 days ago" in host.findings()["drill"].line
    del host.files[DRILL]
    assert "no backup was restored on trial yet" in host.findings()["drill"].line


def test_what_uses_an_old_library_is_restarted_as_it_can_bear(host):
    units = ["airflow-triggerer.service", "nginx.service", "dbus.service"]
    host.commands["needrestart"] = (0, "".join(f"NEEDRESTART-SVC: {unit}\n" for unit in units))
    fix = host.findings()["libraries"].line.partition("fix: ")[2]
    assert fix == "sudo airflow-restart; run playbooks/reboot.yml; sudo systemctl restart nginx.service"


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ("hourly|f|30|9999|", "twitter is not there"),
        ("twitter|f|660|9999|\nhourly|t|30|9999|", "twitter was not read for 11 min, hourly is paused"),
        ("twitter|f|30|2026-01-01|2026-01-02\nhourly|f|30|9999|", f"twitter of {TODAY} has not succeeded by 00:00 UTC"),
        ("twitter|f|30|9999|\nhourly|f|30|9999|", "twitter, hourly are on time"),
    ],
)
def test_a_pipeline_that_does_not_run_is_told_by_name(host, known, words):
    host.commands["dags"] = (0, known)
    assert words in host.findings()["pipelines"].line


def test_before_its_deadline_a_day_is_yesterday(monkeypatch):
    monkeypatch.setattr(dags.time, "time", lambda: 1_800_014_400.0)
    assert dags.last_day("12:00") == "2027-01-15" and dags.last_day("12:01") == "2027-01-14"
