"""airflow-restart against a systemd that remembers what it was told."""

import pytest

from airstrip import restart, systemd

A, B = "airflow-scheduler@a.service", "airflow-scheduler@b.service"
OF = ["--of", "scheduler,triggerer"]


class Host:
    """Units with their properties, and the commands in their order."""

    def __init__(self) -> None:
        self.units = {A: {"ActiveState": "active", "SubState": "running", "ActiveEnterTimestampMonotonic": "1"}}
        self.told: list[str] = []
        self.broken: set[str] = set()
        self.dies: set[str] = set()

    def sick(self, components: list[str]) -> list[str]:
        self.told.append(f"wait for {','.join(components)}")
        return []

    def show(self, unit: str, name: str) -> str:
        if name == "MainPID" and unit in self.dies:
            self.told.append("MainPID")
            return str(len(self.told))
        return self.units.get(unit, {}).get(name, "inactive" if name == "ActiveState" else "")

    def running(self, unit: str) -> bool:
        return self.show(unit, "ActiveState") in systemd.RUNNING

    def systemctl(self, *arguments: str) -> str:
        self.told.append(" ".join(word for word in arguments if not word.startswith("--")))
        verb, unit = arguments[0], arguments[-1]
        if unit in self.broken and verb in ("start", "restart"):
            return "Job failed.\nSee systemctl status."
        if verb == "start":
            self.units[unit] = {"ActiveState": "active", "SubState": "running"}
        if verb in ("stop", "kill"):
            self.units[unit] = {"ActiveState": "inactive"}
        return ""


@pytest.fixture
def host(monkeypatch, tmp_path):
    host = Host()
    for name in ("show", "running", "systemctl"):
        monkeypatch.setattr(restart, name, getattr(host, name))
    monkeypatch.setattr(restart.time, "sleep", lambda _: None)
    monkeypatch.setattr(restart.os, "getuid", lambda: 0)
    monkeypatch.setattr(restart, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(restart, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(restart, "wait_until_healthy", host.sick)
    (tmp_path / "meminfo").write_text("MemAvailable: 9000000 kB\n")
    return host


def test_the_other_starts_before_the_first_stops(host, capsys):
    restart.main([*OF, "scheduler"])
    assert host.told == [f"start {B}", f"enable {B}", f"disable {A}", f"stop {A}"]
    assert capsys.readouterr().out == f"{B} has taken over from {A}\n"


def test_everything_is_restarted_if_nothing_is_named(host):
    restart.main(OF)
    assert host.told[-1] == "restart airflow-triggerer.service" and f"start {B}" in host.told


def test_both_units_of_a_pair_are_one_component(host):
    restart.main([*OF, A, B])
    assert host.told.count(f"start {B}") == 1 and f"start {A}" not in host.told


def test_where_none_runs_the_first_is_started(host):
    host.units.clear()
    restart.main([*OF, "airflow-scheduler@b"])
    assert host.told == [f"start {A}"]


@pytest.mark.parametrize("fault", ["broken", "dies"])
def test_if_the_other_does_not_start_the_first_stays(host, fault):
    """One that systemd cannot start, and one that ends at once and comes back with another process."""
    getattr(host, fault).add(B)
    with pytest.raises(SystemExit, match=rf"(?s)journalctl -eu {B}\n{B} did not start, {A} goes on\Z"):
        restart.main([*OF, "scheduler"])
    assert host.told[-1] == f"stop {B}" and host.running(A)


def test_what_an_interrupted_restart_left_retires_first(host):
    host.units[B] = {"ActiveState": "active", "SubState": "running", "ActiveEnterTimestampMonotonic": "2"}
    restart.main([*OF, "scheduler"])
    assert host.told == [
        *[f"disable {A}", f"stop {A}"],
        *[f"start {A}", f"enable {A}", f"disable {B}", f"stop {B}"],
    ]


def test_a_runner_is_told_to_end_after_its_tasks(host):
    host.units = {"airflow-runner@a.service": host.units[A]}
    restart.main(["--of", "runner"])
    assert host.told[-1] == "kill airflow-runner@a.service"


def test_where_memory_is_short_the_first_stops_first(host, capsys):
    restart.MEMORY.write_text("MemAvailable: 204800 kB\n")
    restart.main([*OF, "scheduler"])
    assert host.told == [f"disable {A}", f"stop {A}", f"enable {A}", f"start {A}"]
    assert "100 MB more would be needed" in capsys.readouterr().out


def test_if_it_does_not_start_systemd_keeps_trying(host):
    host.units.clear()
    host.broken.add(A)
    with pytest.raises(SystemExit, match="systemd tries again until it does"):
        restart.main([*OF, "scheduler"])
    assert host.told == [f"start {A}"]


def test_a_single_unit_says_where_to_look(host):
    host.broken.add("airflow-triggerer.service")
    with pytest.raises(SystemExit, match=r"(?s)Job failed.*journalctl -eu airflow-triggerer.service"):
        restart.main([*OF, "triggerer"])


@pytest.mark.parametrize(("names", "waits"), [(["triggerer"], "triggerer"), ([], "api-server,triggerer")])
def test_it_ends_when_what_it_restarted_works(host, monkeypatch, names, waits):
    host.units.clear()
    restart.main(["--of", "api-server,triggerer", *names])
    assert host.told[-2:] == ["restart airflow-triggerer.service", f"wait for {waits}"]
    monkeypatch.setattr(restart, "wait_until_healthy", list)
    with pytest.raises(SystemExit, match="no heartbeat from triggerer within 120 s"):
        restart.main(["--of", "api-server,triggerer", "triggerer"])


def test_an_absent_component_is_refused(host, monkeypatch):
    with pytest.raises(SystemExit, match="this host has no webserver, but: scheduler, triggerer"):
        restart.main([*OF, "webserver"])
    monkeypatch.setattr(restart.os, "getuid", lambda: 1000)
    with pytest.raises(SystemExit, match="sudo"):
        restart.main(OF)
    assert host.told == []


def test_waiting_shows_how_many_tasks_still_run_and_how_long(host, monkeypatch, capsys):
    texts = iter(["2 still run", "2 still run", "1 still run", "ends"])
    states = iter(["deactivating"] * 4 + ["inactive"])
    host.show = lambda unit, name: {
        "ActiveState": lambda: next(states),
        "StatusText": lambda: next(texts),
        "TimeoutStopUSec": lambda: "10min",
        "StateChangeTimestampMonotonic": lambda: str(int(restart.time.clock_gettime(1) * 1e6)),
    }[name]()
    monkeypatch.setattr(restart, "show", host.show)
    restart.wait_until_stopped(A)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and all("is ended in 600 s" in line for line in said)


@pytest.mark.parametrize(
    ("text", "seconds"), [("10min", 600), ("1h 2min 3.5s", 3723.5), ("90ms", 0.09), ("infinity", float("inf"))]
)
def test_a_span_of_systemd_is_read(text, seconds):
    assert systemd.seconds(text) == seconds
