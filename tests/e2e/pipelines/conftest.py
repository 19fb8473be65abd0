"""What the stories of the daily report share."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lab.settings import BUCKET
from lab.shop import database
from tests.e2e.reports import DAG
from tests.e2e.runs import TODAY, pause, unpause, wait_for_mails


@pytest.fixture(scope="module")
def api(server):
    # The daily run begins as soon as the DAG is no longer paused, and holds up the others.
    yesterday = TODAY - timedelta(days=1)
    database.deliver(server.lab, BUCKET, yesterday)
    unpause(server, server.logged_in, DAG)
    wait_for_mails(server, f"Daily report {yesterday}", seconds=300)
    yield server.logged_in
    pause(server, server.logged_in, DAG)
