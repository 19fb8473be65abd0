"""The manual says what there is: its names exist, its links lead somewhere, it is short where it must be."""

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.manual import PAGES, ROOT

ROLES = sorted(path for path in (ROOT / "roles").iterdir() if (path / "defaults/main.yml").exists())
README_WORDS = 900
PICTURE_BYTES, PICTURES_BYTES = 200_000, 2_000_000
# The word list of CONTRIBUTING.md: what a native operator would not write.
TICS = (
    r"\blies\b|\btakes? (it|them) away\b|\bstands\b(?! for)|come to rest|\bamong it\b|\bcannot be had\b"
    r"|\bmend(s|ed|ing)?\b"
)


def text(page: Path) -> str:
    """A page's words, without the benchmark's table, blocks of code and the word list itself."""
    said = re.sub(r"(?s)<!-- make bench.*?<!-- end of the table -->", "", page.read_text()).partition("\n## Words")[0]
    return re.sub(r"(?ms)^ *```.*?^ *```$", "", said)


def names(pattern: str) -> set[str]:
    """What the pages have in backticks that looks like this."""
    return {name for page in PAGES for name in re.findall(rf"`({pattern})\b", page.read_text())}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= README_WORDS


def test_every_playbook_role_and_target_is_named():
    said = "\n".join(page.read_text() for page in PAGES)
    targets = re.findall(r"(?m)^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text())
    wanted = [path.name for path in (ROOT / "playbooks").glob("*.yml")] + [f"## {role.name}" for role in ROLES]
    wanted += [f"make {target}" for target in targets if target != "help"]
    assert [name for name in wanted if name not in said] == []


def test_every_named_playbook_and_variable_exists():
    playbooks = {name.removeprefix("playbooks/") for name in names(r"(?:playbooks/)?[a-z_]+\.yml")}
    known = {path.name for path in (ROOT / "playbooks").rglob("*.yml")} | {path.name for path in ROOT.rglob("*.yml")}
    assert playbooks - known == set()
    variables = {name for role in ROLES for name in yaml.safe_load((role / "defaults/main.yml").read_text())}
    prefixes = "|".join(role.name for role in ROLES)
    assert names(rf"(?:{prefixes})_[a-z_]+") - variables - {"release_break_lock", "aws_default"} == set()


def test_the_page_of_variables_is_what_the_roles_say():
    spec = importlib.util.spec_from_file_location("variables", ROOT / "docs/variables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs/variables.md").read_text() == module.page(), "run: make docs"


def test_the_site_builds_and_no_link_is_broken(tmp_path):
    build = [ROOT / "build/docs/bin/mkdocs", "build", "--quiet", "--strict", "--site-dir", tmp_path]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=quiet, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text())
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_it_reads_as_operators_write(page):
    # A heading and its first sentence may begin alike, and so may two commands.
    prose = re.sub(r"(?m)^#.*", "", re.sub(r"`[^`]+`", lambda code: f"code{code.start()}", text(page)))
    command = [ROOT / "build/docs/bin/proselint", "check"]
    done = subprocess.run(command, input=prose, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_else_does_too():
    search = ["git", "grep", "-nIiP", TICS, "--", ".", ":!tests/lint", ":!CONTRIBUTING.md", ":!*.txt"]
    assert subprocess.run(search, cwd=ROOT, text=True, capture_output=True, check=False).stdout == ""


def test_pictures_are_small():
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs/pictures").iterdir()}
    assert {name: size for name, size in sizes.items() if size > PICTURE_BYTES} == {}
    assert sum(sizes.values()) <= PICTURES_BYTES
