"""A report as HTML with two pictures, and as text."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from etl.report import layout, notes, pictures
from etl.report.combining import Count
from etl.report.numbers import Number, numbers, table
from etl.storage import Storage


@dataclass(frozen=True)
class Report:
    """A day's report; `sha256` is of the day's own numbers, `content` of all that it shows."""

    day: date
    figures: pd.DataFrame
    lines: list[Number]
    subject: str
    text: str
    sha256: str
    content: str


def render(
    storage: Storage, day: date, rows: list[Any], counts: dict[str, Count], most_refused_percent: float
) -> dict[str, Any]:
    """Write the report of a day, and return its mail: `subject`, `html`, `text`, `pictures` (addresses) and `sha256`.

    `restated` are the days whose mailed numbers have changed because an order has left them: each with the number of
    its newest report, and who was told.

    `rows` is what the warehouse has for the surrounding days, as far as their reports reach: reports whose numbers have
    changed are rewritten too, so that none depends on the order in which days were filled. The HTML of the mail
    references its pictures as parts of the mail; the stored one embeds them.
    """
    figures = table(rows)
    read_at = max(figures.read_at, default="")
    made = report(day, figures, counts, most_refused_percent)
    pictures = _write(storage, made, read_at)
    notes.note_report(storage, day, made.sha256)
    restated = []
    for other, known in notes.around(storage, day):
        around = report(other, figures, known.counts, most_refused_percent)
        if known.shown != around.content:
            _write(storage, around, read_at)
        if known.told and known.newest != around.sha256:
            restated.append({"day": str(other), "report": known.reports, "recipients": known.told})
    html = page(made.subject, made.lines, {name: f"cid:{name}" for name in pictures})
    addresses = [f"{storage.address}/{layout.report(day)}/{name}" for name in pictures]
    mail = {"subject": made.subject, "html": html, "text": made.text, "pictures": addresses, "sha256": made.sha256}
    return {**mail, "restated": restated}


def report(day: date, figures: pd.DataFrame, counts: dict[str, Count], most_refused_percent: float) -> Report:
    """Return the report of a day, from figures of more days."""
    first = day - timedelta(days=layout.DAYS - 1)
    figures = figures[(figures.day >= first) & (figures.day <= day)].drop(columns="read_at")
    figures = figures.sort_values(["day", "channel", "country"], ignore_index=True)
    lines = numbers(figures, counts, day, most_refused_percent)
    failed = sum(bool(line.problem) for line in lines)
    subject = f"Daily report {day}" + (f": {failed} of {len(lines)} numbers failed their check" if failed else "")
    text = plain(subject, lines)
    cents = [
        [str(row.day), row.channel, row.country, int(row.sales), int(row.revenue * 100)] for row in figures.itertuples()
    ]
    refused = {channel: [count.rows, count.refused] for channel, count in counts.items()}
    own = [row for row in cents if row[0] == str(day)]
    return Report(day, figures, lines, subject, text, _digest(own, refused), _digest(cents, text))


def _digest(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write(storage: Storage, made: Report, read_at: str) -> list[str]:
    """Store a report; return the names of its pictures."""
    folder = layout.report(made.day)
    # Named by content: a mail awaiting approval keeps its own pictures.
    drawn = {
        f"days-{made.content[:8]}.png": pictures.days(made.figures, made.lines, made.day),
        f"countries-{made.content[:8]}.png": pictures.countries(made.figures, made.lines, made.day),
    }
    for name, content in drawn.items():
        storage.put(f"{folder}/{name}", content)
    # Two runs write at once, and one of them has read the warehouse later.
    if notes.shown_since(storage, made.day) > read_at:
        return list(drawn)
    alone = {name: f"data:image/png;base64,{base64.b64encode(content).decode()}" for name, content in drawn.items()}
    storage.put(f"{folder}/report.txt", made.text.encode())
    storage.put(f"{folder}/report.html", page(made.subject, made.lines, alone).encode())
    notes.note_shown(storage, made.day, made.content, read_at)
    return list(drawn)


def page(subject: str, lines: list[Number], pictures: dict[str, str]) -> str:
    """Return the report as HTML; `pictures` says where each is."""
    template = Path(__file__).with_name("mail.html").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(subject=subject, lines=lines, pictures=pictures)


def plain(subject: str, lines: list[Number]) -> str:
    """Return the report as text."""
    shown = [subject, "", f"{'':8}{'sales':>10}{'revenue EUR':>18}{'day before':>12}"]
    for line in lines:
        shown.append(f"{line.name:8}{line.sales:>10,}{line.revenue:>18,.2f}{line.change:>12}")
        if line.problem:
            shown.append(f"  CHECK FAILED, do not rely on this number: {line.problem}")
    return "\n".join([*shown, ""])
