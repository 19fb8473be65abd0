"""What the host remembers, and where that leads."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from airstrip.watch import figures
from airstrip.watch.sessions import NoDatabase

NOW = 1_800_000_000.0
DAY = figures.DAY_SECONDS


@pytest.fixture
def host(monkeypatch, tmp_path) -> SimpleNamespace:
    host = SimpleNamespace(now=NOW, free=50_000, rows=[["300", "2.5", "4"]])

    def ask(query, database):
        if not host.rows:
            raise NoDatabase("it said nothing")
        return host.rows

    (tmp_path / "meminfo").write_text("MemTotal: 4000000 kB\nMemAvailable: 2048000 kB\n")
    monkeypatch.setattr(figures, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(figures, "FIGURES", tmp_path / "figures.jsonl")
    monkeypatch.setattr(figures, "live", lambda root: "release-1")
    monkeypatch.setattr(figures.time, "time", lambda: host.now)
    monkeypatch.setattr(figures.shutil, "disk_usage", lambda path: SimpleNamespace(free=host.free * 2**20))
    monkeypatch.setattr(figures, "ask", ask)
    units = [{"Id": "nginx.service", "MemoryCurrent": str(30 * 2**20)}, {"Id": "x", "MemoryCurrent": "[not set]"}]
    monkeypatch.setattr(figures, "properties", lambda given, names: units)
    return host


def write(host, *lines: dict) -> None:
    figures.FIGURES.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_line_holds_what_a_screen_of_the_past_needs(host):
    figures.record("airflow", ["nginx.service"])
    (line,) = figures.kept()
    assert line == {
        "at": NOW, "release": "release-1", "disk_free_mb": 50_000, "free_mb": 2000, "units": {"nginx.service": 30},
        "database_mb": 300, "parse_seconds": 2.5, "waiting": 4,
    }  # fmt: skip


def test_without_the_database_the_rest_is_kept(host):
    host.rows = []
    figures.record("airflow", [])
    (line,) = figures.kept()
    assert line["free_mb"] == 2000 and "database_mb" not in line


def test_what_is_older_than_90_days_goes(host):
    write(host, *({"at": NOW - days * DAY} for days in range(92, 0, -1)))
    figures.record("airflow", [])
    kept = [each["at"] for each in figures.kept()]
    assert kept[0] == NOW - 90 * DAY and kept[-1] == NOW


def filling(host, days: float, a_day: float, step: float = 3600) -> None:
    count = int(days * DAY / step)
    write(host, *(
        {"at": NOW - step * (count - number), "disk_free_mb": 20_000 + a_day * (number - count) * step / DAY}
        for number in range(count)
    ))  # fmt: skip


@pytest.mark.parametrize(("a_day", "days"), [(-2000, 10), (-20_000, 1)])
def test_when_the_disk_is_full_is_said(host, a_day, days):
    filling(host, 7, a_day)
    assert figures.full_in_days() == pytest.approx(days, rel=0.1)


@pytest.mark.parametrize(("days", "a_day"), [(7, 500), (7, 0), (0.5, -2000), (0.01, -2000)])
def test_a_disk_that_does_not_fill_or_is_not_known_long_is_not_foretold(host, days, a_day):
    filling(host, days, a_day)
    assert figures.full_in_days() is None


def read(*releases: tuple[str, float, int]) -> list[dict]:
    return [
        {"at": NOW, "release": name, "parse_seconds": seconds}
        for name, seconds, times in releases
        for _ in range(times)
    ]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (read(("a", 1.0, 9), ("b", 2.0, 9)), (2.0, "b")),
        (read(("a", 1.0, 9), ("b", 1.2, 9)), None),
        (read(("a", 1.0, 9), ("b", 9.0, 3)), None),
        (read(("a", 1.0, 9)), None),
        ([], None),
    ],
)
def test_a_release_that_is_slower_to_read_is_found(host, lines, said):
    write(host, *lines)
    assert figures.slower_since() == said
