"""Who is alerted of what, when and how, and that nothing is sent twice or lost."""

from __future__ import annotations

import contextlib
import json
import smtplib
import ssl
from email import message_from_string
from types import SimpleNamespace

import pytest

from airstrip.watch import alerts, busy, channels, command
from airstrip.watch.findings import Finding

# 12:00 UTC.
NOON = 1_800_014_400.0
GIVEN = {
    "name": "lab",
    "mail_to": [],
    "mail_server": {},
    "slack_webhook": "",
    "webhook": "https://hooks.example.com/1",
    "sns_topic": "",
    "heartbeat": "",
    "quiet": "",
    "dags": {},
    "units": [],
    "components": [],
    "database": "airflow",
    "administrator": "admin",
    "certificate_days": 21,
    "backup": False,
    "heal": True,
}


def found(*wrong: str, checks=("units", "health", "dags", "disk", "reboot", "libraries")) -> list[Finding]:
    return [Finding(name, name not in wrong, "as it is", "fix it" * (name in wrong)) for name in checks]


def looks(*each: tuple[str, ...]) -> list[list[alerts.Message]]:
    """What is told at each look, a minute from the one before."""
    known: alerts.Alerts = {}
    return [alerts.look(known, found(*wrong), NOON + 60 * number) for number, wrong in enumerate(each)]


def test_a_problem_alerts_once_at_its_start_and_once_at_its_end():
    told = looks((), ("health",), ("health",), ("health",), (), (), ())
    assert [len(messages) for messages in told] == [0, 0, 1, 0, 0, 1, 0]
    (begun,), (over,) = told[2], told[5]
    assert begun.title == "health: as it is" and "fix: fix it" in begun.text and "airstrip ack" in begun.text
    assert over.title == "well again: health" and "after 3 min" in over.text
    assert begun.urgent and over.urgent


def test_a_brief_problem_sends_nothing():
    assert not any(looks(("health",), (), ("health",), ()))


def test_a_brief_recovery_is_not_the_end():
    assert [len(messages) for messages in looks(("disk",), ("disk",), (), ("disk",), (), ())] == [0, 1, 0, 0, 0, 1]


def test_consequences_alert_only_when_their_cause_is_over():
    told = looks(("health",), ("health", "dags"), ("health", "dags"), ("dags",), ("dags",), ("dags",), ("dags",))
    assert [[message.title for message in messages] for messages in told] == [
        [], ["health: as it is"], [], [], ["well again: health", "dags: as it is"], [], [],
    ]  # fmt: skip


def test_what_stays_wrong_hides_nothing_for_ever():
    told = looks(*[("health",)] * 3, *[("health", "dags")] * 20)
    titles = [message.title for messages in told for message in messages]
    assert titles == ["health: as it is", "dags: as it is"]


def test_only_what_is_new_in_a_problem_alerts_again():
    known: alerts.Alerts = {}

    def told(said: str, minute: int) -> list[str]:
        findings = [Finding("units", False, said, "fix it")]
        return [message.title for message in alerts.look(known, findings, NOON + 60 * minute)]

    one, two = "not running: triggerer", "not running: triggerer, scheduler"
    assert [told(one, 0), told(one, 1)] == [[], [f"units: {one}"]]
    alerts.acknowledge(known, [])
    assert [told(two, 2), told(two, 3), told(one, 4), told(two, 5)] == [[], [f"units: {two}"], [], []]


def test_figures_that_change_are_nothing_new():
    known: alerts.Alerts = {}
    titles = []
    for minute in range(5):
        finding = Finding("disk", False, f"nearly full: / {90 + minute} %", "fix it")
        titles += [message.title for message in alerts.look(known, [finding], NOON + 60 * minute)]
    assert titles == ["disk: nearly full: / 91 %"]


def test_a_title_is_one_line():
    known: alerts.Alerts = {}
    findings = [Finding("dags", False, "import errors: a.py: NameError\nb.py: SyntaxError", "correct them")]
    alerts.look(known, findings, NOON)
    (message,) = alerts.look(known, findings, NOON + 60)
    assert message.title == "dags: import errors: a.py: NameError b.py: SyntaxError"


def test_what_began_at_once_is_one_message():
    (message,) = looks(("disk", "reboot"), ("disk", "reboot"))[1]
    assert message.title == "disk: as it is, and reboot"


def test_a_restart_that_comes_by_itself_is_waited_for():
    known: alerts.Alerts = {}
    assert not alerts.look(known, found("libraries"), NOON) and not alerts.look(known, found("libraries"), NOON + 90000)
    assert alerts.look(known, found("libraries"), NOON + 94000)
    bill = ("spending",)
    assert not alerts.look(known, found(*bill, checks=bill), NOON)
    assert not alerts.look(known, found(*bill, checks=bill), NOON + 1700)
    assert alerts.look(known, found(*bill, checks=bill), NOON + 1900)


def test_a_day_later_it_alerts_again_unless_acknowledged():
    known: alerts.Alerts = {}
    for seconds in (0, 60):
        alerts.look(known, found("disk", "reboot"), NOON + seconds)
    assert alerts.acknowledge(known, ["reboot"]) == ["reboot"]
    (again,) = alerts.look(alerts.restored(alerts.stored(known)), found("disk", "reboot"), NOON + 86500)
    assert again.title == "disk: as it is"


@pytest.fixture
def host(monkeypatch, tmp_path):
    """What a look finds, what is sent, and which channel takes nothing."""
    host = SimpleNamespace(
        wrong=(), sent=[], broken=False, now=NOON, given=dict(GIVEN), asked=[], beats=0, reboots=False, target="enabled"
    )

    def post(address, body):
        if host.broken:
            raise OSError("connection refused")
        host.sent.append(body["title"])

    def examine(_, names):
        host.asked.append(list(names))
        return found(*host.wrong, checks=names)

    def beat(_):
        host.beats += 1

    def look():
        (tmp_path / "watch.json").write_text(json.dumps(host.given))
        host.now += 60
        return command.watch([])

    host.look, host.lock = look, tmp_path / "lock"
    monkeypatch.setattr(channels, "post", post)
    monkeypatch.setattr(command, "beat", beat)
    monkeypatch.setattr(command, "examine", examine)
    monkeypatch.setattr(command, "SETTINGS", str(tmp_path / "watch.json"))
    monkeypatch.setattr(command, "STATE", tmp_path / "state" / "state.json")
    monkeypatch.setattr(busy, "LOCK", host.lock)
    monkeypatch.setattr(busy, "WAITS", tmp_path / "wait.conf")
    monkeypatch.setattr(busy, "running", lambda unit: host.reboots)
    monkeypatch.setattr(busy, "show", lambda unit, name: host.target)
    monkeypatch.setattr(command.Settings, "read", lambda: None)
    monkeypatch.setattr(command.time, "time", lambda: host.now)
    return host


def test_looks_remember_and_alerts_name_the_server(host):
    host.wrong = ("disk",)
    assert [host.look() for _ in range(3)] == [0, 0, 0]
    assert host.sent == ["lab: disk: as it is"]


def test_what_a_channel_does_not_take_is_sent_later_and_once(host, capsys):
    host.wrong, host.broken = ("disk",), True
    assert [host.look() for _ in range(3)] == [0, 1, 1] and "connection refused" in capsys.readouterr().err
    host.broken = False
    assert [host.look() for _ in range(2)] == [0, 0] and host.sent == ["lab: disk: as it is"]


def test_in_quiet_hours_only_urgent_alerts_are_sent(host):
    host.given["quiet"], host.wrong = "11:30-12:10", ("reboot", "disk")
    host.look(), host.look()
    assert host.sent == ["lab: disk: as it is, and reboot"] or host.sent == ["lab: reboot: as it is, and disk"]
    host.wrong = ("certificate", "reboot", "disk")
    host.look(), host.look()
    assert len(host.sent) == 1
    host.now += 600
    host.look()
    assert host.sent[1:] == ["lab: certificate: as it is"]
    assert command.quiet("22:00-13:00", NOON) and not command.quiet("13:00-22:00", NOON)


def test_slow_checks_are_made_seldom_until_one_is_wrong(host):
    host.look(), host.look()
    assert "libraries" in host.asked[0] and "libraries" not in host.asked[1] and "health" in host.asked[1]
    host.now, host.wrong = host.now + 900, ("libraries",)
    host.look(), host.look()
    assert "libraries" in host.asked[3]


def test_nothing_is_checked_while_a_playbook_runs(host):
    host.given["heartbeat"] = "https://beat.example.com"
    host.lock.write_text('{"user": "ada"}')
    host.now = host.lock.stat().st_mtime
    host.look()
    assert host.asked == [] and host.beats == 1
    host.now += 3600
    host.look()
    assert host.asked


def test_nothing_is_checked_during_waits_and_reboots_or_when_disabled(host, tmp_path):
    (tmp_path / "wait.conf").write_text("[Service]\nTimeoutStopSec=7200\n")
    host.now = (tmp_path / "wait.conf").stat().st_mtime + 7000
    host.look()
    host.now += 7200
    host.reboots = True
    host.look()
    host.reboots, host.target = False, "disabled"
    host.look()
    assert host.asked == []
    host.target = "enabled"
    host.look()
    assert host.asked


def test_what_was_looked_at_is_kept_where_a_heartbeat_fails(host, monkeypatch):
    def fails(_):
        raise ValueError("unknown url type")

    monkeypatch.setattr(command, "beat", fails)
    host.given["heartbeat"], host.wrong = "beat.example.com", ("disk",)
    assert [host.look(), host.look()] == [1, 1] and host.sent == ["lab: disk: as it is"]


def test_an_ack_ends_the_alerts(host, capsys):
    host.wrong = ("disk",)
    host.look(), host.look()
    assert command.ack([]) == 0 and "known: disk" in capsys.readouterr().out
    host.now += 90000
    host.look()
    assert len(host.sent) == 1


class Server:
    """A mail server that remembers."""

    def __init__(self, *address, **options) -> None:
        self.address, self.options, self.done = address, options, []
        Server.last = self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def starttls(self, context: ssl.SSLContext) -> None:
        self.done.append(("starttls", context.verify_mode))

    def login(self, *words: str) -> None:
        self.done.append(("login", *words))

    def send_message(self, message) -> None:
        self.message = message_from_string(message.as_string())


@pytest.mark.parametrize(("plain", "port", "kind"), [(True, 587, "SMTP"), (False, 465, "SMTP_SSL")])
def test_mail_goes_over_tls_whichever_way_it_begins(monkeypatch, plain, port, kind):
    monkeypatch.setattr(smtplib, kind, Server)
    server = {
        "host": "mail.example.com",
        "login": "ada",
        "password": "p",
        "extra": {"from_email": "airflow@example.com"},
    }
    server["extra"]["disable_ssl"] = plain
    channels.mail({"mail_to": ["a@example.com", "b@example.com"], "mail_server": server}, "title", "text")
    assert Server.last.address == ("mail.example.com", port)
    assert Server.last.done[:-1] == [("starttls", ssl.CERT_REQUIRED)] * plain and Server.last.done[-1][0] == "login"
    assert Server.last.message["To"] == "a@example.com, b@example.com" and Server.last.message["Subject"] == "title"


def test_each_channel_that_is_set_has_it(monkeypatch):
    posted, published = [], []
    monkeypatch.setattr(channels, "post", lambda address, body: posted.append((address, sorted(body))))

    def run(command, input, **_):
        published.append(json.loads(input)["topic"])
        return SimpleNamespace(returncode=1, stderr="Traceback\nAuthorizationError: no")

    monkeypatch.setattr(channels.subprocess, "run", run)
    given = {**GIVEN, "slack_webhook": "https://slack.example.com", "sns_topic": "arn:aws:sns:eu-central-1:1:alerts"}
    for name, send in channels.channels(given):
        with pytest.raises(OSError, match="no") if name == "sns" else contextlib.nullcontext():
            send("title", "text")
    assert posted == [("https://slack.example.com", ["text"]), ("https://hooks.example.com/1", ["text", "title"])]
    assert published == ["arn:aws:sns:eu-central-1:1:alerts"]
