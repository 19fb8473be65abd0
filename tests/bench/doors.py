"""How closed the host is: the twenty checks of an intruder, Lynis, and the sandbox of each unit."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from xml.etree import ElementTree

from tests.server import ROOT, Server

REPORT = ROOT / "build" / "doors.xml"
UNITS = "'airflow-*.service' 'nginx.service' 'postgresql@*.service'"


def doors(server: Server) -> dict[str, list[float]]:
    """The checks on a machine of their own, the rest on this one."""
    tests = [sys.executable, "-m", "pytest", "--quiet", f"--junitxml={REPORT}", "tests/e2e/doors"]
    subprocess.run(tests, cwd=ROOT, check=False)
    server.run("apt-get update -qq && apt-get install -qq -y --no-install-recommends lynis > /dev/null")
    audit = server.run("lynis audit system --quick --no-colors")
    listed = f"systemctl list-units --plain --no-legend --state=active {UNITS} | cut -d' ' -f1"
    exposure = server.run(f"for unit in $({listed}); do systemd-analyze security --no-pager $unit | tail -1; done")
    return {
        "doors_passed": [passed()],
        "lynis": [float(re.search(r"Hardening index : (\d+)", audit)[1])],
        "exposure_worst": [max(map(float, re.findall(r": ([0-9.]+) ", exposure)))],
    }


def passed() -> int:
    """How many of the checks passed: each may have several tests, and needs all of them."""
    results = defaultdict(list)
    for test in ElementTree.parse(REPORT).iter("testcase"):
        good = not {child.tag for child in test} & {"failure", "error", "skipped"}
        for about in test.iter("property"):
            results[about.get("value")].append(good)
    return sum(map(all, results.values()))
