"""Secrets of a lab, each made once and kept in its state."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from lab.settings import Lab


def word(length: int) -> str:
    """Return a random word of this length."""
    return secrets.token_hex(length // 2)


def secret(lab: Lab, name: str, make: Callable[[], str]) -> str:
    """Return the secret of a name, created if missing."""
    path = lab.state / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(make())
    return path.read_text()
