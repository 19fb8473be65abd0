"""Two lanes of tests: each group stays in one, and they are begun in the order of CONTRIBUTING's table."""

import re
import shutil
import subprocess
import sys

from tests.server import ROOT


def test_each_group_stays_in_one_lane_in_the_order_of_the_table(tmp_path):
    table = "| `long` | 9 |\n| `guest` | 1 | that of `long` |\n| `short` | 2 |\n| `last` | 1 |\n"
    (tmp_path / "CONTRIBUTING.md").write_text(table)
    for name in ("guest", "last", "long", "short"):
        folder = tmp_path / "tests" / name
        folder.mkdir(parents=True)
        tests = "".join(f"def test_{number}(): time.sleep(0.1)\n" for number in range(6))
        (folder / "test_it.py").write_text(f"import time\n{tests}")
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    options = re.search(r"IN_LANES := (.*)", (ROOT / "Makefile").read_text())[1].replace("$(LANES)", "2").split()
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", ".", "-v", *options]
    said = subprocess.run([*command, "tests"], cwd=tmp_path, text=True, capture_output=True, check=False).stdout
    ended = re.findall(r"\[(gw\d)\] .*PASSED tests/(\w+)/", said)
    assert len(ended) == 24, said
    lanes = {group: {lane for lane, other in ended if other == group} for _, group in ended}
    assert [len(found) for found in lanes.values()] == [1, 1, 1, 1]
    assert lanes["guest"] == lanes["long"] != lanes["short"]
    begun = {lane: next(group for other, group in ended if other == lane) for lane in ("gw0", "gw1")}
    assert set(begun.values()) == {"long", "short"}
    assert re.search(r"long +0\.0 of +9\.0", said)
