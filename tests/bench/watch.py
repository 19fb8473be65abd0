"""How soon what hangs works again, how soon somebody is told, and what all of the watching costs."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections import Counter

from tests.e2e.runs import mails
from tests.e2e.tasks.test_heal import PAIRS, processes
from tests.server import Server, wait_until

NAME = "watched"
PEACE_SECONDS = 300
MOST_SECONDS = 400
WATCHING = ["airstrip-heal.service", "prometheus-node-exporter.service", "collectd.service"]
SHORT_LIVED = (
    "cp -a /etc/nginx/tls/certificate.pem /root/certificate.pem && openssl req -x509 -newkey rsa:2048 -nodes -days 5 "
    "-subj /CN=x -keyout /dev/null -out /etc/nginx/tls/certificate.pem 2> /dev/null"
)
# What breaks a check, and what fixes it.
FAULTS = {
    "units": ("systemctl stop airflow-triggerer", "systemctl start airflow-triggerer"),
    "healing": ("systemctl stop airstrip-heal", "systemctl start airstrip-heal"),
    "pipelines": ("airflow dags pause twitter", "airflow dags unpause twitter"),
    "reboot": ("touch /run/reboot-required", "rm /run/reboot-required"),
    "jobs": ("systemd-run --quiet --unit=airstrip-trial false", "systemctl reset-failed airstrip-trial"),
    "certificate": (SHORT_LIVED, "mv /root/certificate.pem /etc/nginx/tls/certificate.pem"),
}


def watch(server: Server) -> dict[str, list[float]]:
    """All parts on: some minutes of peace, all units stopped at once, then six faults."""
    wanted = {"watch_mail_to": ["pager@lab.test"], "watch_name": NAME, "watch_dags": {"twitter": ""}}
    given = {**wanted, "metrics_password": secrets.token_hex(16)}
    server.play("site.yml", "-e", json.dumps(given))
    server.run("airflow dags unpause twitter")
    server.wait_until_healthy()
    # Everything has started.
    wait_until(lambda: "FAIL" not in server.run("airstrip check units health pipelines", check=False), 300, every=5)
    time.sleep(60)
    before = told(server)
    processor, memory = cost(server)
    in_peace = sum((told(server) - before).values())
    healed = seconds_until_all_work_again(server)
    # That is told too, where it takes long enough.
    time.sleep(180)
    before, missed, seconds = told(server), 0, []
    # Consequences of a down unit are not alerted beside it.
    for names in (["units"], [name for name in FAULTS if name != "units"]):
        began = time.monotonic()
        for name in names:
            server.run(FAULTS[name][0])
        seconds.append(seconds_until_told(server, names, before, began))
        for name in names:
            server.run(FAULTS[name][1])
        repaired = time.monotonic()
        over = seconds_until_told(server, [f"{name}: well again" for name in names], before, repaired)
        missed += sum(value >= MOST_SECONDS for value in (seconds[-1], over))
    told_now = told(server) - before
    return {
        "heal_worst_s": [healed],
        "alert_worst_s": [max(seconds)],
        "alerts_missed": [missed],
        "alerts_false": [in_peace + sum(told_now.values()) - 2 * len(FAULTS)],
        "watch_pss_mb": [memory],
        "watch_cpu_percent": [processor],
    }


def told(server: Server) -> Counter[str]:
    """What was mailed so far: each check that fails, and each that is well again."""
    texts = [mail.get_content() for mail in mails(server, "") if str(mail["Subject"]).startswith(f"{NAME}: ")]
    lines = [re.findall(r"(?m)^(?!fix: )(\w+): (well again)?", text) for text in texts]
    return Counter(f"{name}: {over}".rstrip(": ") for found in lines for name, over in found)


def seconds_until_told(server: Server, names: list[str], before: Counter[str], began: float) -> float:
    """Return the seconds until all of these are told, at most those after which they are missed."""
    while set(names) - set(told(server) - before) and time.monotonic() - began < MOST_SECONDS:
        time.sleep(1)
    return min(time.monotonic() - began, MOST_SECONDS)


def seconds_until_all_work_again(server: Server) -> float:
    """Stop all units at once with SIGSTOP; return the seconds until all were replaced and are healthy."""
    units = [server.unit(name) for name in PAIRS]
    units += ["airflow-dag-processor.service", "airflow-triggerer.service", "nginx.service"]
    before = processes(server, units)
    server.run(f"systemctl kill -s STOP {' '.join(units)}")
    began = time.monotonic()

    def replaced() -> bool:
        now = processes(server, units)
        return len(now) == len(units) and not {"0", *before} & set(now)

    wait_until(replaced, 300, "something hangs on", every=1)
    wait_until(server.healthy, 300, "it is not healthy", every=1)
    return time.monotonic() - began


def cost(server: Server) -> tuple[float, float]:
    """Return the percentage of a core, and the MB, that all of the watching takes in some minutes of peace."""
    pids = server.run(f"systemctl show -p MainPID --value {' '.join(WATCHING)}").split()
    before = ticks(server, pids)
    time.sleep(PEACE_SECONDS)
    kept = (ticks(server, pids) - before) / 100
    # The doctor comes each minute and goes: what one look takes, its children's time with it.
    said = server.run("exec 2>&1; TIMEFORMAT='%U %S'; time (for i in 1 2 3; do airstrip watch; done)", check=False)
    look = sum(map(float, said.split()[-2:])) / 3
    maps = server.run(f"cat {' '.join(f'/proc/{pid}/smaps_rollup' for pid in pids)}")
    memory = sum(map(int, re.findall(r"(?m)^Pss:\s+(\d+)", maps))) / 1024
    return 100 * (kept / PEACE_SECONDS + look / 60), memory


def ticks(server: Server, pids: list[str]) -> int:
    """Return the hundredths of a second of processor time of these processes and of the children that they had."""
    stats = server.run(f"cat {' '.join(f'/proc/{pid}/stat' for pid in pids)}").splitlines()
    return sum(int(field) for line in stats for field in line.rpartition(")")[2].split()[11:15])
