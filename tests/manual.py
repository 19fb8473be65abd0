"""The manual's pages, and the commands in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = r"(?ms)^ *```\w*\n(.*?)^ *```$"


def commands(pages: Sequence[Path] = PAGES) -> list[str]:
    """Whatever is written as code: the lines of the blocks, without their comments, and what is in backticks."""
    found: set[str] = set()
    for page in pages:
        text = page.read_text()
        lines = "".join(re.findall(BLOCK, text)).splitlines()
        found |= {re.split(r" +# ", line)[0].strip() for line in lines}
        found |= set(re.findall(r"`([^`\n]+)`", re.sub(BLOCK, "", text)))
    return sorted(found)
