"""Who is told what, and when: once when it begins and once when it is over, however often it is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from airstrip.watch.findings import Finding

# Consequences of another are not reported for this long.
FOLLOWS = {
    "health": {"units"},
    "tokens": {"units", "health"},
    "database": {"units", "health"},
    "dags": {"units", "health"},
    "pipelines": {"units", "health", "dags"},
    "versions": {"units", "health"},
    "history": {"units", "health"},
    "backup": {"history"},
    "healing": {"units", "health"},
    "jobs": {"backup", "drill"},
}
FOLLOWS_SECONDS = 900
# What is told at any hour: no task runs, or something is about to be lost.
URGENT = {"units", "health", "tokens", "database", "disk", "history", "backup"}
PATIENCE_SECONDS = 45
# A restart of what an upgrade replaced comes by itself within a day.
# What X charged can be read later; that the bucket is away, `history` tells.
PATIENCE = {"libraries": 26 * 3600, "spending": 1800}
REMIND_SECONDS = 24 * 3600


@dataclass
class Alert:
    """What a check finds wrong: since when, when somebody was told, and whether somebody has said that they know."""

    since: float
    said: str
    fix: str
    # Since when it could be told: starts anew when it gets worse, or no longer follows from another.
    news: float
    seen: list[str] = field(default_factory=list)
    told: float = 0
    known: bool = False
    # Since when it is well again.
    well: float = 0

    @property
    def what(self) -> str:
        """What is wrong, whatever the figures."""
        return re.sub(r"[0-9.]+", "#", self.said)


@dataclass
class Message:
    """What is told: in a line, and at length. One that is not `urgent` waits until the quiet hours are over."""

    title: str
    text: str
    urgent: bool
    at: float


Alerts = dict[str, Alert]


def look(alerts: Alerts, findings: Iterable[Finding], now: float) -> list[Message]:
    """Merge the findings into the alerts; return what to report, with all that began at once in one message."""
    for finding in findings:
        alert = alerts.get(finding.name)
        if finding.ok:
            if alert and not alert.seen:
                del alerts[finding.name]
            elif alert:
                alert.well = alert.well or now
        elif alert:
            alert.said, alert.fix, alert.well = finding.said, finding.fix, 0
            if alert.told and alert.what not in alert.seen:
                alert.told, alert.known, alert.news = 0, False, now
        else:
            alerts[finding.name] = Alert(now, finding.said, finding.fix, now)
    return ended(alerts, now) + began(alerts, now) + reminders(alerts, now)


def began(alerts: Alerts, now: float) -> list[Message]:
    """Return what to report for the first time, or what has got worse since."""
    due = {}
    for name, alert in alerts.items():
        causes = [alerts[cause] for cause in FOLLOWS.get(name, ()) if cause in alerts]
        if any(now - cause.since < FOLLOWS_SECONDS or cause.well for cause in causes):
            alert.news = now
        elif not alert.told and not alert.well and now - alert.news >= PATIENCE.get(name, PATIENCE_SECONDS):
            due[name] = alert
    for alert in due.values():
        alert.told = now
        alert.seen.append(alert.what)
    return [told(due, now)] if due else []


def reminders(alerts: Alerts, now: float) -> list[Message]:
    """Return reminders of what nobody has acknowledged."""
    due = {
        name: alert
        for name, alert in alerts.items()
        if alert.told and not alert.known and not alert.well and now - alert.told >= REMIND_SECONDS
    }
    for alert in due.values():
        alert.told = now
    return [told(due, now)] if due else []


def ended(alerts: Alerts, now: float) -> list[Message]:
    """Return what is over, and forget it. What is well for one look only is not over."""
    over = {name: alert for name, alert in alerts.items() if alert.well and now - alert.well >= PATIENCE_SECONDS}
    for name in over:
        del alerts[name]
    if not over:
        return []
    text = "\n".join(
        f"{name}: well again after {lasted(alert.well - alert.since)}. It was: {alert.said}"
        for name, alert in over.items()
    )
    return [Message(f"well again: {', '.join(over)}", text, bool(URGENT & over.keys()), now)]


def told(due: Alerts, now: float) -> Message:
    """Return what is wrong, with what fixes it."""
    first, *others = due
    title = f"{first}: {due[first].said}" + (f", and {', '.join(others)}" if others else "")
    text = "\n\n".join(
        f"{name}: {alert.said}\nfor {lasted(now - alert.since)}\nfix: {alert.fix}" for name, alert in due.items()
    )
    return Message(
        " ".join(title.split())[:200],
        f"{text}\n\nTo hear no more of it until it is over: sudo airstrip ack",
        bool(URGENT & due.keys()),
        now,
    )


def lasted(seconds: float) -> str:
    """Return a span as people say it."""
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"


def acknowledge(alerts: Alerts, names: Iterable[str]) -> list[str]:
    """Note that somebody knows of these, or of all; return their names."""
    wanted = set(names) or set(alerts)
    for name in wanted & alerts.keys():
        alerts[name].known = True
    return sorted(wanted & alerts.keys())


def stored(alerts: Alerts) -> dict[str, Any]:
    """Return them as JSON keeps them."""
    return {name: asdict(alert) for name, alert in alerts.items()}


def restored(kept: dict[str, Any]) -> Alerts:
    """Return what JSON kept."""
    return {name: Alert(**alert) for name, alert in kept.items()}
