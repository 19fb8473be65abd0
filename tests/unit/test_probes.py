"""What is asked of a unit, and what its journal says of its end."""

from __future__ import annotations

import socket
import threading

import pytest

from airstrip.watch import done, probes

API, SCHEDULER = "airflow-api-server@a.service", "airflow-scheduler@a.service"
ANSWERS = {"/auth/login/": b"<html>", "/execution/dag-runs/count?dag_id=doctor": b"0"}


@pytest.mark.parametrize(
    ("sick", "path", "answer", "said"),
    [
        ([], "", b"", ""),
        (["metadatabase"], "", b"", "no connection to the database"),
        (["api-server"], "", b"", "says nothing of its health"),
        ([], "/auth/login/", TimeoutError("timed out"), "timed out"),
        ([], "/execution/dag-runs/count?dag_id=doctor", 503, "503"),
        ([], "/execution/dag-runs/count?dag_id=doctor", 401, ""),
    ],
)
def test_the_api_server_is_asked_for_health_login_and_what_tasks_ask(monkeypatch, sick, path, answer, said):
    def answered(asked: str, seconds: float = 0, **headers: str) -> bytes:
        got = answer if asked == path else ANSWERS[asked]
        if isinstance(got, int):
            raise probes.urllib.error.HTTPError(asked, got, str(got), {}, None)
        if isinstance(got, Exception):
            raise got
        return got

    monkeypatch.setattr(probes, "answer", answered)
    monkeypatch.setattr(probes, "sick", lambda components, seconds: sick)
    monkeypatch.setattr(probes, "task_token", lambda key, configuration: "token")
    monkeypatch.setattr(probes.Path, "read_text", lambda path: "")
    assert said in probes.wrong(API) and bool(said) == bool(probes.wrong(API))


def test_a_unit_without_probe_is_ok():
    assert probes.wrong("airflow-dag-processor.service") == ""


@pytest.mark.parametrize(("greeting", "said"), [(b'{"runner": "x"}\n', ""), (b"", "closes the connection")])
def test_each_runner_is_asked_by_its_own_socket(monkeypatch, tmp_path, greeting, said):
    monkeypatch.setattr(probes, "SOCKETS", str(tmp_path))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "b.sock"))
        server.listen()

        def greet() -> None:
            client, _ = server.accept()
            client.sendall(greeting)
            client.close()

        thread = threading.Thread(target=greet)
        thread.start()
        assert said in probes.wrong("airflow-runner@b.service")
        thread.join()
    assert "No such file" in probes.wrong("airflow-runner@a.service")


def entry(pid: str, message: str, run: str = "2") -> dict[str, str]:
    return {"_PID": pid, "MESSAGE": message, "_SYSTEMD_INVOCATION_ID": run}


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (
            [("9", "KeyError: 'x'"), ("1", "airflow-scheduler@a.service: Failed with result 'exit-code'.")],
            "KeyError: 'x'",
        ),
        ([("9", "the database does not answer: no"), ("1", "Failed to start x.")], "the database does not answer: no"),
        ([("1", "Stopped x.")], "nothing"),
    ],
)
def test_the_last_words_are_the_processes_own_of_their_last_run(monkeypatch, messages, said):
    older = [entry("7", "ValueError: an older one", "1")] if said != "nothing" else []
    monkeypatch.setattr(done, "journal", lambda unit: [*older, *(entry(*each) for each in messages)])
    assert done.last_words(SCHEDULER) == said
    assert done.how_it_ended(SCHEDULER) == ("exit-code" if "KeyError" in said else "success")
