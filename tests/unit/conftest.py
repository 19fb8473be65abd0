"""The stand-in for the X API in this process, and a folder to collect into."""

import threading
from datetime import UTC, datetime

import pytest
from hypothesis import settings
from matplotlib.figure import Figure

from airstrip.release import folder
from etl.report import pictures
from etl.storage import Storage
from etl.x import client as x_client
from etl.x import summary
from lab.x_api.api import XApi
from lab.x_api.oauth import Keys
from lab.x_api.people import Person, lab_people
from lab.x_api.server import Server as XServer
from tests.unit.release_server import Server

# How long an example takes says how busy the machine is.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

KEYS = Keys("bearer-for-tests", "consumer", "consumer-secret", "access", "access-secret")
NOW = datetime(2026, 11, 2, 0, 40, tzinfo=UTC)


@pytest.fixture(scope="session")
def x_server():
    server = XServer(XApi(KEYS, []))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def x(x_server, monkeypatch):
    """The account: it is 00:40 of November 2, and nobody waits between tries."""
    monkeypatch.setattr(x_client, "LONGEST_PAUSE_SECONDS", 0)
    x_server.api = XApi(KEYS, lab_people(), clock=lambda: NOW)
    return x_server.api


@pytest.fixture
def drawn(monkeypatch):
    """Figures that were drawn, of the modules that draw."""
    kept = []

    class Kept(Figure):
        def savefig(self, *given, **options):
            kept.append(self)
            super().savefig(*given, **options)

    for module in (pictures, summary):
        monkeypatch.setattr(module, "Figure", Kept)
    return kept


@pytest.fixture
def client(x, x_server):
    return x_client.Client(x_client.Keys(KEYS.bearer_token), x_server.address)


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path / "data"))


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(folder.shutil, "chown", lambda *_, **__: None)
    monkeypatch.setattr(folder, "VIRTUALENVS", tmp_path / "venvs")
    return Server(tmp_path)


@pytest.fixture
def busy(x):
    """A user of 730 posts a day: eight pages."""
    person = Person("7", "busy", posts_per_day=730)
    x.people.append(person)
    return person
