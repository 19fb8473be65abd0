"""What the benchmark makes of its samples: the comparison and the tables."""

import pytest

from tests.bench import figures


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """A record and a README of the test's own, measured at a commit of its choice."""
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "results.json")
    for name in ("README", "MANUAL"):
        monkeypatch.setattr(figures, name, tmp_path / f"{name}.md")
        page = "before\n<!-- make bench writes this table -->\nold\n<!-- end of the table -->\nafter\n"
        (tmp_path / f"{name}.md").write_text(page)

    def at(commit: str, date: str = "2026-11-01 10:00:00") -> None:
        monkeypatch.setattr(figures, "commit", lambda: commit)
        monkeypatch.setattr(figures, "now", lambda: date)

    at("aaa")
    return at


def test_the_median_counts_and_every_sample_is_kept():
    figures.record({"rollback_s": [2.5, 9, 2.71]})
    found = figures.load()["rollback_s"]
    assert (found["value"], found["samples"], found["commit"]) == (2.71, [2.5, 9, 2.71], "aaa")


def test_what_misses_its_goal_or_its_control_is_named():
    figures.record({"rollback_s": [3.1], "update_noop_s": [2], "tasks_per_s": [4.9], "tasks_per_s_stock": [5.0]})
    figures.record({"chain40_s": [19], "chain40_stock_s": [18], "site_again_changed": [0, 1, 1]})
    short = "\n".join(figures.short())
    assert "rollback_s is 3.1 s, its goal <= 2.5" in short and "update_noop_s" not in short
    assert "tasks_per_s is 4.9 a second, its goal >= 6" in short and "no better than its control 5" in short
    assert "chain40_s is 19 s, no better than its control 18" in short and "site_again_changed is 1" in short


def test_each_page_has_one_table_and_marks_what_is_older(files):
    figures.record({"rollback_s": [2.4], "chain40_s": [19], "chain40_stock_s": [47.2]})
    files("bbb", "2026-11-01 11:00:00")
    figures.record({"rollback_s": [2.3]})
    figures.write_tables()
    figures.write_tables()
    for page in (figures.README, figures.MANUAL):
        text = page.read_text()
        assert text.startswith("before\n") and text.endswith("after\n") and "old\n" not in text
        assert text.count("| goal |") == 1 and "| a chain of 40 small tasks |" in text
    assert "rollback" not in figures.README.read_text()
    assert "| `rollback.yml` | 2.3 s | 2.5 s |  |" in text
    assert "| a chain of 40 small tasks | 19 s (at `aaa`) | 12 s | 47.2 s |" in text
    assert "on 2026-11-01 at commit `bbb`" in text
