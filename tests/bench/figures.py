"""The figures: what each says, its goal and its control; their samples' record; the README's table and the manual's."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.server import ROOT

RESULTS = ROOT / "tests" / "bench" / "results.json"
# Where a table is, and which figures it has; all, where none are named.
README, MANUAL = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
FEW = ["site_cold_s", "chain40_s", "tasks_per_s", "idle_pss_mb", "update_live_s"]
# What is measured, and what measures.
MEASURED = ["roles", "playbooks", "dags", "etl", "lab", "tests", f":!{RESULTS.relative_to(ROOT)}"]
TABLE = re.compile(r"(?s)(<!-- make bench writes this table -->\n).*?(<!-- end of the table -->)")


@dataclass(frozen=True)
class Figure:
    """One measured number; less is better, unless `more`. The control is another figure, of the usual way."""

    says: str
    unit: str
    goal: float | None = None
    control: str | None = None
    more: bool = False
    # Whether it should be better than its control.
    contest: bool = True

    def reached(self, value: float) -> bool:
        return self.goal is None or (value >= self.goal if self.more else value <= self.goal)


FIGURES = {
    "site_cold_s": Figure(
        "from nothing to a healthy server, TLS and PostgreSQL included", "s", 120, "tutorial_install_s"
    ),
    "tutorial_install_s": Figure("`pip install` of Airflow alone", "s"),
    "site_again_s": Figure("a second run of `site.yml`, nothing changed", "s", 12),
    "site_again_changed": Figure("tasks that it reports as changed", "", 0),
    "idle_pss_mb": Figure("idle memory of the whole host (PSS)", "MB", 850, "idle_pss_stock_mb"),
    "idle_pss_stock_mb": Figure("the same under stock Airflow", "MB"),
    "chain40_s": Figure("a chain of 40 small tasks", "s", 12, "chain40_stock_s"),
    "chain40_stock_s": Figure("the same under stock Airflow", "s"),
    "tasks_per_s": Figure("small tasks a second, 100 side by side", "/s", 6, "tasks_per_s_stock", more=True),
    "tasks_per_s_stock": Figure("the same under stock Airflow", "/s"),
    "pss_after_1000_tasks_mb": Figure("memory of the whole host after a thousand tasks", "MB", 1000),
    "scheduler_kill_s": Figure("scheduling again after `kill -9` of the scheduler", "s", 15),
    "database_back_s": Figure("scheduling again once PostgreSQL is back", "s", 15),
    "reboot_s": Figure("healthy again after a reboot by EC2, with tasks running", "s", 90),
    "rpo_s": Figure("history that is lost with the host, at most", "s", 60),
    "restore_new_host_s": Figure("a lost host back on a new one, from the bucket", "s", 300),
    "upgrade_pause_s": Figure("nothing served while Airflow was upgraded", "s", 60),
    "upgrade_back_s": Figure("the old Airflow back where an upgrade failed", "s", 60),
    "rotate_failed_requests": Figure("requests that failed while keys and passwords changed", "", 0),
    "rotate_failed_tasks": Figure("tasks that failed or ran again meanwhile", "", 0),
    "heal_worst_s": Figure("what was stopped by SIGSTOP works again by itself, at the latest", "s", 90),
    "alert_worst_s": Figure("from a fault to its message, at the latest", "s", 180),
    "alerts_missed": Figure("faults of which nobody was told", "", 0),
    "alerts_false": Figure("messages about no fault", "", 0),
    "watch_pss_mb": Figure("memory of all that watches (PSS)", "MB", 60),
    "watch_cpu_percent": Figure("processor time of all that watches, of one core", "%", 1),
    "doors_passed": Figure("checks of an intruder that the host passes, of 20", "", 20, more=True),
    "exposure_worst": Figure("exposure of the most exposed unit, of 10 (`systemd-analyze security`)", "", 2.8),
    "lynis": Figure("Lynis' hardening index, of 100", "", 79, more=True),
    "update_live_s": Figure("an edited DAG live, from the start of the command", "s", 4, "rsync_live_s"),
    "rsync_live_s": Figure("the same by `rsync -a` under stock Airflow", "s"),
    "update_noop_s": Figure("`update.yml` with nothing to ship", "s", 2),
    "rollback_s": Figure("`rollback.yml`", "s", 2.5),
    "push_live_s": Figure("a push by a CI job live, gate included", "s", 30),
    "update_50_files_s": Figure("50 new DAG files live", "s", 12),
    "gate_50_files_s": Figure("of it, the gate", "s", None, "parser_50_files_s"),
    "parser_50_files_s": Figure("the same files parsed once by `airflow dag-processor --num-runs 1`", "s"),
    "update_10000_files_s": Figure("a tree of 10,000 more files and 300 MB live", "s", 20),
    "update_live_200_s": Figure("an edited DAG live beside 200 others", "s"),
    "bundle_prepare_ms": Figure("time a task spends on finding its release", "ms", 10),
    "restart_lost": Figure("tasks lost in 20 restarts of everything", "", 0, "stock_restart_lost"),
    "stock_restart_lost": Figure("the same, restarted by systemctl", ""),
    "restart_tried_again": Figure("tasks tried again meanwhile", "", 0, "stock_restart_tried_again"),
    "stock_restart_tried_again": Figure("the same", ""),
    "restart_tasks": Figure("tasks that ran meanwhile", "", None, "stock_restart_tasks", contest=False),
    "stock_restart_tasks": Figure("the same", ""),
    "restart_failed_requests": Figure("requests that failed meanwhile", "", 0, "stock_restart_failed_requests"),
    "stock_restart_failed_requests": Figure("the same", ""),
    "restart_pause_s": Figure("longest pause of scheduling meanwhile", "s", 5, "stock_restart_pause_s"),
    "stock_restart_pause_s": Figure("the same", "s"),
    "etl_time_ratio": Figure(
        "160,000 posts stored, cleaned and checked: time beside a loop that only downloads", "times", 1.05
    ),
    "etl_peak_mb": Figure("memory of that, for 50 users", "MB", 250),
    "etl_peak_mb_10x_pages": Figure("memory for 5 users of 32 pages each", "MB", 250),
    "etl_peak_10th_pages_mb": Figure("memory for 5 users of 4 pages each", "MB"),
    "report_200mb_s": Figure("a file of 200 MB (4.1 million receipts) cleaned", "s"),
    "report_200mb_peak_mb": Figure("memory of that", "MB"),
}


def commit() -> str:
    """The commit that is measured; `-dirty` where what is measured has changes."""
    name = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--", *MEASURED)
    return f"{name}-dirty" if changed else name


def now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


def record(samples: dict[str, Sequence[float]]) -> None:
    """Keep the samples of the measured figures beside those that were measured before."""
    known = load()
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    about = {"commit": commit(), "date": now(), "machine": machine}
    for name, values in samples.items():
        rounded = [round(value, 2) for value in values]
        # If the goal is zero, the worst sample counts.
        middle = max if FIGURES.get(name, Figure("", "")).goal == 0 else statistics.median
        known[name] = {"value": round(middle(values), 2), "samples": rounded, **about}
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")


def load() -> dict[str, dict[str, Any]]:
    """The record: for each figure its value (the median), samples, commit, date and machine."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def short() -> list[str]:
    """A line for each figure that misses its goal, or is no better than its control."""
    found, lines = load(), []
    for name, figure in FIGURES.items():
        if name not in found:
            continue
        value = found[name]["value"]
        if not figure.reached(value):
            lines.append(f"{name} is {_text(value, figure)}, its goal {'>=' if figure.more else '<='} {figure.goal:g}")
        control = found.get(figure.control or "", {}).get("value") if figure.contest else None
        if control is not None and (value <= control if figure.more else value >= control) and value != control:
            lines.append(f"{name} is {_text(value, figure)}, no better than its control {control:g}")
    return lines


def show() -> str:
    """Return a table of all figures with their goals and controls."""
    found = load()
    lines = [f"{'figure':<30} {'value':>10} {'goal':>8} {'control':>10}  commit"]
    for name in [*FIGURES, *sorted(set(found) - set(FIGURES))]:
        if name in found:
            figure = FIGURES.get(name, Figure("", ""))
            goal = "" if figure.goal is None else f"{figure.goal:g}"
            control = found.get(figure.control or "", {}).get("value", "")
            lines.append(f"{name:<30} {found[name]['value']:>10.2f} {goal:>8} {control!s:>10}  {found[name]['commit']}")
    return "\n".join(lines)


def write_tables() -> None:
    """Put the tables into the README and the manual: a row of an older commit than the newest says so."""
    for page, names in ((README, FEW), (MANUAL, list(FIGURES))):
        text = page.read_text()
        assert TABLE.search(text), f"{page.name} has no place for the table"
        page.write_text(TABLE.sub(lambda match, names=names: match[1] + _table(names) + match[2], text))


def _table(names: Sequence[str]) -> str:
    found = load()
    newest = max(found.values(), key=lambda one: one["date"])["commit"] if found else ""
    controls = {figure.control for figure in FIGURES.values()}
    rows = ["| figure | Airstrip | goal | stock Airflow |", "|---|---|---|---|"]
    for name in names:
        figure = FIGURES[name]
        if name in found and name not in controls:
            older = "" if found[name]["commit"] == newest else f" (at `{found[name]['commit']}`)"
            goal = "" if figure.goal is None else f"{'at least ' if figure.more else ''}{_text(figure.goal, figure)}"
            control = found.get(figure.control or "", {})
            beside = _text(control["value"], figure) if control else ""
            if control and not FIGURES[figure.control].says.startswith("the same"):
                beside += f": {FIGURES[figure.control].says}"
            rows.append(f"| {figure.says} | {_text(found[name]['value'], figure)}{older} | {goal} | {beside} |")
    about = next((one for one in found.values() if one["commit"] == newest), None)
    if about:
        rows += [
            "",
            f"Measured on {about['date'][:10]} at commit `{newest}`: {about['machine']}, Debian 13 in the lab.",
        ]
    return "\n".join(rows) + "\n"


def _text(value: float, figure: Figure) -> str:
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 2 else 2
    number = f"{value:,.{digits}f}"
    unit = {"/s": "a second"}.get(figure.unit, figure.unit)
    return f"{number} {unit}".strip()


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, text=True, capture_output=True, check=True).stdout.strip()
