"""What an installation takes, again and from nothing, and what it holds in memory."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

from tests.bench.stock import Stock
from tests.server import Server

PSS = "cat /proc/[0-9]*/smaps_rollup 2>/dev/null | awk '/^Pss:/ {sum += $2} END {print sum / 1024}'"
# By then every component has finished starting.
IDLE_SECONDS = 75
AGAIN = 3
MEMORY_TURNS = 1


def seconds(action: Callable[[], object]) -> float:
    start = time.monotonic()
    action()
    return time.monotonic() - start


def install(server: Server) -> dict[str, list[float]]:
    """`pip install` of the usual packages without pins, then `site.yml` from nothing and again."""
    server.run("apt-get update -qq && apt-get install -qq -y python3-venv > /dev/null")
    packages = "apache-airflow pandas s3fs tweepy"
    pip = seconds(lambda: server.run(f"python3 -m venv /root/usual && /root/usual/bin/pip install -q {packages}"))
    server.run("rm -rf /root/usual")
    os.environ["ANSIBLE_CALLBACKS_ENABLED"] = "ansible.posix.profile_roles"
    plays = []
    times = [seconds(lambda: plays.append(server.play("site.yml"))) for _ in range(1 + AGAIN)]
    del os.environ["ANSIBLE_CALLBACKS_ENABLED"]
    roles = re.findall(r"(?m)^(base|postgresql|release|airflow|nginx) -+ ([0-9.]+)s", plays[0].output)
    return {
        "tutorial_install_s": [pip],
        "site_cold_s": times[:1],
        **{f"site_cold_{role}_s": [float(spent)] for role, spent in roles},
        "site_again_s": times[1:],
        "site_again_changed": [play.changed for play in plays[1:]],
    }


def memory(server: Server) -> dict[str, list[float]]:
    """Idle after a start, ours and stock Airflow in turns."""
    stock = Stock(server)
    stock.install()
    found: dict[str, list[float]] = {"idle_pss_mb": [], "idle_pss_stock_mb": []}
    for _ in range(MEMORY_TURNS):
        stock.on()
        time.sleep(IDLE_SECONDS)
        found["idle_pss_stock_mb"].append(float(server.run(PSS)))
        stock.off()
        time.sleep(IDLE_SECONDS)
        found["idle_pss_mb"].append(float(server.run(PSS)))
    return found
