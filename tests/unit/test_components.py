"""The one table of components, and Airflow's own health check read by it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from airstrip import components

WELL = {name: {"status": "healthy"} for name in ("metadatabase", "scheduler", "dag_processor", "triggerer")}


@pytest.fixture
def airflow(monkeypatch):
    """Answers as Airflow does; what it says may be changed."""
    said = dict(WELL)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(components, "HEALTH", f"http://127.0.0.1:{server.server_port}/")
    yield said
    server.shutdown()
    server.server_close()


def test_what_has_no_heartbeat_is_sick(airflow):
    assert components.sick() == components.sick(components.TABLE) == []
    airflow["dag_processor"] = {"status": "unhealthy"}
    assert components.sick() == components.sick(["api-server", "dag-processor"]) == ["dag-processor"]
    assert components.sick(["api-server", "scheduler"]) == []


def test_the_database_counts_whatever_is_asked_for(airflow):
    airflow["metadatabase"] = {"status": "unhealthy"}
    assert components.sick() == components.sick(["runner"]) == ["metadatabase"]


def test_an_absent_component_is_sick_only_if_asked_for(airflow):
    airflow["triggerer"] = {"status": None}
    assert components.sick() == [] and components.sick(["triggerer"]) == ["triggerer"]


def test_no_answer_blames_the_api_server(monkeypatch, capsys):
    monkeypatch.setattr(components, "HEALTH", "http://127.0.0.1:9/")
    assert components.main(["--wait", "0.1", "scheduler"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out) == {"sick": ["api-server"]} and "no heartbeat from api-server" in said.err


def test_the_command_waits_until_all_are_well(airflow, capsys):
    airflow["scheduler"] = {"status": "unhealthy"}
    threading.Timer(0.3, airflow.update, [WELL]).start()
    assert components.main(["--wait", "30"]) == 0
    assert json.loads(capsys.readouterr().out) == {"sick": []}


def test_an_unknown_component_is_refused(capsys):
    with pytest.raises(SystemExit):
        components.main(["webserver"])
    assert "no component is called webserver" in capsys.readouterr().err
