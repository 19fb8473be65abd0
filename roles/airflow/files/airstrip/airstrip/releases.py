"""The folder of releases on a host: `releases/<id>` each, and the link `current` to the live one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

MANIFEST = "release.json"
BUNDLE = "airstrip"


def live(root: Path) -> str | None:
    """Return the id of the live release, or nothing before the first one."""
    try:
        return os.path.basename(os.readlink(root / "current"))
    except FileNotFoundError:
        return None


def folder(root: Path, release: str) -> Path:
    """Return the folder of a release."""
    return root / "releases" / release


def manifest(root: Path, release: str) -> dict[str, Any]:
    """Return what was noted of a release when it was made: `dags` (id to file), `virtualenv` and more.

    Raises FileNotFoundError where the release is not on this host.
    """
    return json.loads((folder(root, release) / MANIFEST).read_text())
