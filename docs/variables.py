"""Write variables.md from the defaults of the roles, whose comments are the manual, and their argument specs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/variables.md"
HEAD = """# All variables

Set them in `inventory/production/group_vars/all/main.yml`, secrets in `vault.yml` beside it. `make docs` writes this
page from `roles/*/defaults/main.yml`.
"""


def paragraphs(text: str) -> Iterator[tuple[list[str], str]]:
    """Yield the variables of each paragraph with the comment above them."""
    for block in re.split(r"\n\s*\n", text):
        names = re.findall(r"(?m)^([a-z][a-z0-9_]*):", block)
        comment = " ".join(re.findall(r"(?m)^# ?(.*)$", block))
        if names:
            yield names, comment


def default(value: object) -> str:
    """Return a default as it is written in an inventory."""
    if value in ("", [], {}, None):
        return ""
    said = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
    return f"`{said.replace('|', chr(92) + '|')}`" if len(said) < 60 else "see the role"


def section(role: Path) -> Iterator[str]:
    """Yield the lines of one role's part."""
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]
    text = (role / "defaults/main.yml").read_text().removeprefix("---\n")
    values = yaml.safe_load(text)
    yield from ("", f"## {role.name}", "", f"{specs['short_description']}.", "")
    for names, comment in paragraphs(text):
        for name in names:
            option = specs["options"][name]
            choices = f", one of {', '.join(f'`{one}`' for one in option['choices'])}" if "choices" in option else ""
            said = default(values[name])
            yield from (f"### `{name}`", "", f"{option['type']}{choices}{f', default {said}' if said else ''}", "")
            yield from ((comment if name == names[0] else f"See `{names[0]}`."), "")


def page() -> str:
    """Return the whole page."""
    roles = sorted(path for path in (ROOT / "roles").iterdir() if (path / "defaults/main.yml").exists())
    return HEAD + "\n".join(line for role in roles for line in section(role)).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
