"""The lab's templates."""

from __future__ import annotations

from pathlib import Path

import jinja2

ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)


def render(name: str, **values: object) -> str:
    """Return a template with these values. Raises jinja2.UndefinedError for one that is missing."""
    return ENVIRONMENT.get_template(name).render(values)
