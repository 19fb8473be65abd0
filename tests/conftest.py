"""The order of the groups, their machines, and what they took beside what they may take: CONTRIBUTING.md has them."""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def budgets() -> dict[str, float]:
    """Minutes that each group may take, in the order in which they are begun."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return {name: float(minutes) for name, minutes in re.findall(r"(?m)^\| `(\w+)` \| ([0-9.]+) \|", text)}


def group(node: str) -> str:
    """The group of a test: its folder."""
    return Path(node.partition("::")[0]).parent.name


@functools.cache
def lane(group: str) -> str:
    """The group whose machine this one uses, and beside which it stays; mostly itself."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return dict(re.findall(r"(?m)^\| `(\w+)` \| [0-9.]+ \| that of `(\w+)` \|", text)).get(group, group)


def pytest_collection_modifyitems(items) -> None:
    """Start the groups in the table's order, longest first, so that the lanes end together."""
    order = list(budgets())
    items.sort(key=lambda item: order.index(group(item.nodeid)))
    for item in items:
        # For the benchmark, which reads it in the report.
        item.user_properties += [("door", mark.args[0]) for mark in item.iter_markers("door")]


# Optional, because Airflow's own virtualenv, in which tests/unit runs, has no pytest-xdist.
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep each group in one lane, with those that share its machine: its tests tell one story."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return lane(group(nodeid))

    return Groups(config, log)


def pytest_terminal_summary(terminalreporter) -> None:
    """Print the minutes of each group beside its budget."""
    taken: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                taken[group(report.nodeid)] += report.duration
    said = {
        f"{name} {value}"
        for report in terminalreporter.stats.get("passed", [])
        for name, value in report.user_properties
        if name != "door"
    }
    if said:
        terminalreporter.section("figures")
        terminalreporter.write_line("\n".join(sorted(said)))
    if taken:
        terminalreporter.section("minutes of each group, and its budget")
    for name, minutes in budgets().items():
        if name in taken:
            over = "  OVER" if taken[name] / 60 > minutes else ""
            terminalreporter.write_line(f"{name:<12} {taken[name] / 60:6.1f} of {minutes:4.1f}{over}")
