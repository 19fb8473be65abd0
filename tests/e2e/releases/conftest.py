"""What the tests of this group share."""

from __future__ import annotations

import pytest

from tests.server import Server


@pytest.fixture
def loaded(server, ship) -> Server:
    """The server, with the DAGs of the load live."""
    if "load_dag.py" not in server.run("ls /srv/airflow/current/dags").split():
        ship()
    return server
