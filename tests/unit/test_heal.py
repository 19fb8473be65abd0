"""Hung units are replaced, crash loops stopped; what only waits or starts is kept."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from airstrip.watch import done, heal, loops
from airstrip.watch.sessions import NoDatabase

API, SCHEDULER = "airflow-api-server@a.service", "airflow-scheduler@a.service"
NGINX = "nginx.service"
UNITS = [[API, API.replace("@a", "@b")], [SCHEDULER], ["postgresql.service"], [NGINX]]


class Host:
    """A host that is looked at every ten seconds, and what was done to it."""

    def __init__(self, monkeypatch, tmp_path) -> None:
        self.now = 1000.0
        self.units = {unit: self.unit(unit) for unit in (API, SCHEDULER, NGINX)}
        self.found: list[tuple[str, str]] = []
        self.wrong: dict[str, str] = {}
        self.silent = False
        self.commands: list[str] = []
        self.result = "exit-code"
        self.folder = tmp_path
        clock = SimpleNamespace(
            monotonic=lambda: self.now, clock_gettime=lambda _: self.now, CLOCK_MONOTONIC=1, time=lambda: self.now
        )
        monkeypatch.setattr(heal, "time", clock)
        monkeypatch.setattr(done, "time", clock)
        monkeypatch.setattr(loops, "time", clock)
        monkeypatch.setattr(heal, "properties", lambda units, names: list(self.units.values()))
        for module in (heal, loops):
            monkeypatch.setattr(module, "systemctl", lambda *command: self.commands.append(" ".join(command)))
        monkeypatch.setattr(heal, "look", self.look)
        monkeypatch.setattr(heal, "wrong", lambda unit: self.wrong.get(unit, ""))
        monkeypatch.setattr(loops, "UNITS", tmp_path)
        monkeypatch.setattr(done, "DONE", tmp_path / "done.jsonl")
        monkeypatch.setattr(loops, "how_it_ended", lambda unit: self.result)
        monkeypatch.setattr(loops, "last_words", lambda unit: "KeyError: 'smtp_default'")
        self.healer = heal.Healer(SimpleNamespace(units=UNITS, database="airflow"))

    def unit(self, name: str, started: float = 1.0) -> dict[str, str]:
        return {
            "Id": name,
            "ActiveState": "active",
            "SubState": "running",
            "NRestarts": "0",
            "ActiveEnterTimestampMonotonic": str(int(started * 1e6)),
        }

    def look(self, database: str) -> list[tuple[str, str]]:
        if self.silent:
            raise NoDatabase("it said nothing for 10 s")
        return self.found

    def looks(self, times: int) -> list[str]:
        """What was done in so many looks."""
        self.commands.clear()
        for _ in range(times):
            self.healer.look()
            self.now += 10
        return self.commands

    @property
    def told(self) -> list[str]:
        return [f"{each['unit']}: {each['what']}" for each in done.done(0)]


@pytest.fixture
def host(monkeypatch, tmp_path) -> Host:
    return Host(monkeypatch, tmp_path)


def test_working_units_are_kept(host):
    assert host.looks(20) == [] and host.told == []


def test_one_that_does_not_answer_three_times_is_replaced(host):
    host.wrong = {API: "timed out"}
    assert host.looks(2) == []
    assert host.looks(1) == [f"kill --signal=KILL {API}"]
    assert host.told == [f"{API}: replaced, since timed out"]


def test_an_answer_resets_the_count(host):
    for wrong in ("timed out", "timed out", "", "timed out", "timed out"):
        host.wrong = {NGINX: wrong}
        assert host.looks(1) == []


def test_one_that_gets_nothing_done_is_replaced(host):
    host.found = [("airflow-scheduler", "3 triggers wait to be taken")]
    assert host.looks(3) == [f"kill --signal=KILL {SCHEDULER}"]


def test_a_starting_unit_is_left_alone(host):
    host.wrong = {API: "refused"}
    host.units[API] = host.unit(API, started=990)
    assert host.looks(4) == []
    assert host.looks(5) != []


def test_during_a_takeover_both_are_left_alone(host):
    other = API.replace("@a", "@b")
    host.units[other] = host.unit(other, started=host.now)
    host.wrong = {API: "timed out", other: "timed out"}
    assert host.looks(4) == []
    assert set(host.looks(4)) == {f"kill --signal=KILL {API}", f"kill --signal=KILL {other}"}


def test_futile_replacements_stop(host):
    host.wrong = {NGINX: "refused"}
    assert len(host.looks(100)) == heal.REPLACEMENTS
    host.now += heal.REPLACED_SECONDS
    assert len(host.looks(3)) == 1


def test_a_silent_database_is_told_to_go_on_and_nothing_is_replaced(host):
    host.silent = True
    host.wrong = {API: "timed out", NGINX: "timed out"}
    assert host.looks(3) == ["kill --signal=CONT postgresql@*.service"] * 3
    assert host.told == ["postgresql: told to go on, since it said nothing for 10 s"]


def test_sessions_that_were_ended_are_noted(host):
    host.found = [("ended", "session 7 of psql (idle in transaction), for which a service waited: LOCK TABLE dag")]
    host.looks(1)
    assert host.told == [f"postgresql: ended {host.found[0][1]}"]
    host.found *= 3
    host.looks(1)
    assert host.told[-1] == f"postgresql: ended {host.found[0][1]} (3 of them)"


def crash(host: Host, unit: str, times: int) -> None:
    """Let systemd have restarted a unit so often."""
    for _ in range(times):
        host.units[unit]["NRestarts"] = str(int(host.units[unit]["NRestarts"]) + 1)
        host.looks(1)


# One that ends with code 0 is no failure to systemd.
@pytest.mark.parametrize("state", ["failed", "inactive"])
def test_what_crashes_five_times_in_ten_minutes_ends_and_says_why(host, state):
    drop_in = host.folder / f"{SCHEDULER}.d" / "loop.conf"
    host.looks(1)
    crash(host, SCHEDULER, 3)
    assert not drop_in.exists()
    crash(host, SCHEDULER, 1)
    assert drop_in.read_text() == "[Service]\nRestart=no\n"
    host.units[SCHEDULER] |= {"ActiveState": state, "SubState": "dead", "NRestarts": "0"}
    assert host.looks(1) == ["daemon-reload"] and not drop_in.exists()
    assert host.told[0] == f"{SCHEDULER}: ended and restarted, exit-code, KeyError: 'smtp_default'"
    assert host.told[-1] == f"{SCHEDULER}: crashed 5 times in 10 min and is left for 15 min: KeyError: 'smtp_default'"
    assert host.looks(89) == []
    assert host.looks(3) == [f"start --no-block {SCHEDULER}"]


def test_a_hang_and_what_was_replaced_are_no_crashes(host):
    host.looks(1)
    host.result = "watchdog"
    crash(host, SCHEDULER, 20)
    assert not (host.folder / f"{SCHEDULER}.d" / "loop.conf").exists()
    host.result, host.wrong = "signal", {NGINX: "timed out"}
    assert host.looks(3) == [f"kill --signal=KILL {NGINX}"]
    before = len(host.told)
    crash(host, NGINX, 1)
    assert len(host.told) == before


def test_the_api_server_is_left_to_its_socket(host):
    host.looks(1)
    crash(host, API, 20)
    assert not (host.folder / f"{API}.d" / "loop.conf").exists() and len(host.told) == 20


def test_while_somebody_is_at_the_host_nothing_counts(host):
    host.wrong = {NGINX: "refused"}
    host.looks(2)
    host.healer.rest(host.healer.state())
    assert host.looks(2) == []


def test_while_the_database_is_away_crashes_are_no_loop(host):
    host.looks(1)
    crash(host, SCHEDULER, 4)
    host.silent = True
    crash(host, SCHEDULER, 1)
    assert not (host.folder / f"{SCHEDULER}.d" / "loop.conf").exists()
    crash(host, SCHEDULER, 20)
    host.silent = False
    crash(host, SCHEDULER, 3)
    assert not (host.folder / f"{SCHEDULER}.d" / "loop.conf").exists()


@pytest.mark.parametrize(
    "words", ["sqlalchemy.exc.OperationalError: (psycopg2.errors.DiskFull)", "No space left on device"]
)
def test_what_the_database_or_the_disk_lacks_is_no_loop(host, monkeypatch, words):
    monkeypatch.setattr(loops, "last_words", lambda unit: words)
    host.looks(1)
    crash(host, SCHEDULER, 20)
    assert not (host.folder / f"{SCHEDULER}.d" / "loop.conf").exists() and words in host.told[-1]


def test_crashes_that_are_long_past_are_no_loop(host):
    host.looks(1)
    for _ in range(10):
        crash(host, SCHEDULER, 2)
        host.now += loops.CRASH_SECONDS
        assert not (host.folder / f"{SCHEDULER}.d" / "loop.conf").exists()


def test_a_manual_start_resets_the_crash_count(host):
    host.looks(1)
    crash(host, SCHEDULER, 4)
    host.units[SCHEDULER]["NRestarts"] = "0"
    assert host.looks(1) == ["daemon-reload"]
    crash(host, SCHEDULER, 3)
    assert not (host.folder / f"{SCHEDULER}.d" / "loop.conf").exists()


def test_who_recovers_may_crash_again(host):
    host.looks(1)
    crash(host, SCHEDULER, 4)
    host.now += loops.CRASH_SECONDS
    assert host.looks(1) == ["daemon-reload"]
    assert not (host.folder / f"{SCHEDULER}.d" / "loop.conf").exists()


def test_a_restart_by_hand_is_no_crash(host):
    host.units[SCHEDULER]["NRestarts"] = "7"
    host.looks(1)
    host.units[SCHEDULER]["NRestarts"] = "0"
    assert host.looks(5) == [] and host.told == []


def test_the_notes_are_bounded_and_those_of_a_day_are_told(host):
    for number in range(done.KEPT + 50):
        host.now += 600
        done.note("nginx", str(number))
    assert len(done.DONE.read_text().splitlines()) == done.KEPT + 1
    assert len(done.done(host.now - 86400)) == 145
    assert json.loads(done.DONE.read_text().splitlines()[-1])["what"] == str(done.KEPT + 49)
