"""Somebody is told what is wrong, once, and once that it is over."""

from __future__ import annotations

import json
import re

from tests.e2e.runs import mails
from tests.server import wait_until


def test_the_pager_is_mailed_when_a_fault_begins_and_ends(server):
    # What other tests had replaced is not told here.
    server.run("rm -f /var/lib/airstrip-heal/done.jsonl")
    wanted = {"watch_mail_to": ["pager@lab.test"], "watch_name": "watched", "watch_quiet": "00:00-23:59"}
    given = ["--tags", "watch", "-e", json.dumps(wanted)]
    assert server.play("site.yml", *given).changed > 0
    assert server.play("site.yml", *given).changed == 0
    server.run("systemctl is-active airstrip-watch.timer && systemctl start airstrip-watch")

    def told() -> list[str]:
        """More looks than one a minute, and what was mailed so far."""
        server.run("systemctl start airstrip-watch")
        return [mail["Subject"] for mail in mails(server, "no heartbeat from triggerer")]

    assert told() == []
    server.run("systemctl service-watchdogs no && systemctl kill -s STOP airflow-triggerer")
    try:
        wait_until(told, 180, "nobody is told", every=5)
        assert "known: health" in server.run("airstrip ack")
    finally:
        server.run("systemctl kill -s CONT airflow-triggerer; systemctl service-watchdogs yes")
    wait_until(lambda: len(told()) > 1, 180, "nobody is told that it is over", every=5)
    assert told() == ["watched: health: no heartbeat from triggerer", "watched: well again: health"]
    begun, over = (mail.get_content() for mail in mails(server, "no heartbeat from triggerer"))
    assert "fix: sudo systemctl restart airflow.target" in begun
    assert re.search(r"well again after \d+ (s|min). It was: no heartbeat from triggerer", over)
    assert server.play("site.yml", "--tags", "watch").changed > 0
    assert "inactive" in server.run("systemctl is-active airstrip-watch.timer", check=False)
