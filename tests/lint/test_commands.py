"""Each playbook of the manual is played by a test, with the same settings."""

from __future__ import annotations

import re

import pytest

from tests.manual import ROOT, commands

TESTS = [path.read_text() for path in sorted((ROOT / "tests").rglob("*.py")) if path.parent.name != "lint"]
TESTS += [(ROOT / name).read_text() for name in ("lab/first_run.py", "Makefile")]
PLAYBOOK = r"(?:ansible-playbook )?(?:playbooks/)?([a-z_]+\.yml)((?: +--?[a-z].*)?)"


def settings(arguments: str) -> list[str]:
    """The names of what is set, and the options."""
    return [next(filter(None, found)) for found in re.findall(r"([a-z_]+)=|(--[a-z]+)|\"([a-z_]+)\":", arguments)]


@pytest.mark.parametrize("command", [line for line in commands() if re.fullmatch(PLAYBOOK, line)])
def test_each_playbook_of_the_manual_is_played(command):
    name, arguments = re.fullmatch(PLAYBOOK, command).groups()
    if not (ROOT / "playbooks" / name).exists():
        # A file of variables or of an inventory.
        return
    where = [text for text in TESTS if f'"{name}"' in text or f"playbooks/{name}" in text]
    assert any(all(word in text for word in settings(arguments)) for text in where)
