"""The manual's commands on the host do what it says, or at least run."""

from __future__ import annotations

import re

import pytest

from tests.manual import PAGES, commands

PROGRAM = r"(?:sudo )?((?:airstrip|airflow|airflow-restart|fail2ban-client|journalctl|systemctl|ss|du|cat) [^*]+)"
GIVEN = {
    "ADDRESS": "192.0.2.1",
    "UNIT": "airflow-triggerer",
    "DAG_ID": "twitter",
    "FILE": "/run/connections.json",
    "…": "a-password-of-a-test",
}
# Other tests run these: they need more than a host at rest.
ELSEWHERE = r"airstrip-drill|restart airflow\.target|backfill create|release run|export| -f$"


def on_the_host() -> list[str]:
    """What operators are told to run there; CONTRIBUTING.md speaks to others."""
    manual = commands([page for page in PAGES if page.name != "CONTRIBUTING.md"])
    found = {match[1] for line in manual if (match := re.fullmatch(PROGRAM, line))}
    return sorted(line for line in found if not re.search(ELSEWHERE, line))


@pytest.fixture(scope="module")
def given(server):
    """What the commands are given; what they leave goes with it."""
    server.run("echo '{}' > /run/connections.json")
    yield
    server.run("airflow users delete --username ada")


@pytest.mark.usefixtures("given")
@pytest.mark.parametrize("command", on_the_host())
def test_it_runs(server, command):
    for word, value in GIVEN.items():
        command = command.replace(word, value)
    *said, code = server.run(f"{command} 2>&1; code=$?; echo; echo $code", check=False).splitlines()
    # The doctor says 1 where it finds something, `why` where no run has failed.
    assert code == "0" or (code == "1" and command.startswith(("airstrip check", "airstrip why"))), said
