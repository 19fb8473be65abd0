"""The runner of tasks, as a process of its own, and the executor that gives it workloads."""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from airflow.models.callback import CallbackKey
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.net import get_hostname
from airflow.utils.state import TaskInstanceState

from airstrip import executor, lost, runner, runner_client, warm

NOBODY = 65534


def settings(root, **given):
    values = {"socket": root / "a.sock", "client": "nobody", "releases": root, "logs": root, "memory": 500}
    return argparse.Namespace(**{**values, "processes": 50, "stop_seconds": 60, "writable": [], **given})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runner")


@pytest.fixture(scope="module")
def api():
    """An API server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/execution/"


@pytest.fixture(scope="module")
def started(root, api):
    """A runner of the user nobody, beside a scheduler that is nobody too."""
    given = {name.replace("_", "-"): value for name, value in vars(settings(root)).items() if name != "writable"}
    options = [f"--{name}={value}" for name, value in given.items()]
    environment = {**os.environ, "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": api, "HOME": str(root)}
    command = [sys.executable, "-m", "airstrip.runner", *options]
    process = subprocess.Popen(command, env=environment | {"AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(root / "logs")})
    deadline = time.monotonic() + 60
    while not (root / "a.sock").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def client(started, root):
    connection = executor.Runner(root / "a.sock")
    yield connection
    connection.socket.close()


def message(kind="ExecuteTask"):
    """A task that waits for the API server; or one that fails at once, because Airflow knows no such kind."""
    ti = {"id": str(uuid.uuid4()), "dag_version_id": str(uuid.uuid4()), "task_id": "t", "dag_id": "d", "run_id": "r"}
    ti |= {"try_number": 1, "map_index": -1, "pool_slots": 1, "queue": "default", "priority_weight": 1}
    bundle = {"name": "airstrip", "version": None}
    workload = {"type": kind, "token": "t", "dag_rel_path": "d.py", "bundle_info": bundle, "log_path": None}
    key = ["TaskInstanceKey", ["d", "t", "r", 1, -1]]
    return {"run": ti["id"], "digest": "1", "key": key, "workload": {**workload, "ti": ti}}


def about(connection, name):
    """What was said of one workload: the ends of others may come between."""
    return [said for said in connection.messages if said["id"] == name]


def ended(connection, name):
    deadline = time.monotonic() + 60
    while True:
        for said in about(connection, name):
            if said["state"] != "running":
                return said
        connection.receive(1)
        assert time.monotonic() < deadline


def test_an_end_is_kept_until_somebody_notes_it(client, root):
    failing = message("Nothing")
    client.run(failing)
    assert ended(client, failing["run"])["state"] == "failed"
    next_one = executor.Runner(root / "a.sock")
    assert failing["run"] in next_one.known
    next_one.send({"noted": failing["run"]})
    # What is asked after it is answered after it.
    next_one.run(message("Nothing"))
    assert failing["run"] not in executor.Runner(root / "a.sock").known


def test_where_the_disk_of_the_logs_is_full_nothing_is_taken_until_it_is_not(root, monkeypatch):
    one, told, free = runner.Runner(settings(root, client="root")), [], [0]
    one.tell = told.append
    monkeypatch.setattr(runner.shutil, "disk_usage", lambda _: SimpleNamespace(free=free[0]))
    one.look_for_room(), one.look_for_room()
    free[0] = runner.ROOM_BYTES
    one.look_for_room(), one.look_for_room()
    assert told == [{"draining": True}, {"draining": False}]
    one.draining, free[0] = True, 0
    one.look_for_room()
    assert len(told) == 2


def test_what_is_sent_twice_runs_once(client):
    failing = message("Nothing")
    client.run(failing)
    first = ended(client, failing["run"])
    client.messages.clear()
    client.run(failing)
    assert about(client, failing["run"]) == [first], "the answer is the first one's end"
    client.messages.clear()
    client.run({**failing, "digest": "2"})
    (again, *_) = about(client, failing["run"])
    assert again["state"] == "running", "it goes on after a wait: that is another workload"


def test_the_next_scheduler_sees_what_runs(client, root):
    waiting = message()
    client.run(waiting)
    (found,) = about(executor.Runner(root / "a.sock"), waiting["run"])
    assert (found["state"], found["key"]) == ("running", waiting["key"])


def test_nobody_but_the_scheduler_may_ask(started, root):
    os.chmod(root / "a.sock", 0o777)
    for path in (root, *root.parents[:3]):
        path.chmod(path.stat().st_mode | 0o011)
    ask = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(len(s.recv(99)))"
    command = ["/usr/bin/python3", "-c", ask, root / "a.sock"]
    said = {user: subprocess.check_output(command, user=user, cwd="/", text=True) for user in (NOBODY, 4321)}
    assert said[4321] == "0\n" and said[NOBODY] != "0\n"


def test_a_task_has_the_file_and_the_virtualenv_of_its_release(root, tmp_path):
    other = tmp_path / "other"
    (other / "bin").mkdir(parents=True)
    (other / "bin" / "python").touch()
    release = root / "releases" / "r1"
    release.mkdir(parents=True)
    (release / "release.json").write_text(json.dumps({"dags": {"d": "dags/moved.py"}, "virtualenv": str(other)}))
    content = message()["workload"]
    subject = runner.Runner(settings(root))
    assert subject.place(content) == Path(sys.prefix).resolve() and content["dag_rel_path"] == "d.py"
    content["bundle_info"]["version"] = "pruned"
    assert subject.place(content) == Path(sys.prefix).resolve() and content["dag_rel_path"] == "d.py"
    content["bundle_info"]["version"] = "r1"
    assert subject.place(content) == other and content["dag_rel_path"] == "dags/moved.py"


def in_a_child(action):
    """Return the exit code of a forked process."""
    process = os.fork()
    if process == 0:
        code = 99
        try:
            code = action()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def lives(process: int) -> bool:
    """Whether a process still does anything; a dead one's new parent may not have reaped it yet."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_task_leaves_no_process(tmp_path):
    note = tmp_path / "daemon"

    def leave_a_daemon():
        warm.adopt_orphans()
        command = f"setsid sh -c 'sleep 600 & echo $! > {note}; wait' & while [ ! -s {note} ]; do sleep 0.01; done"
        subprocess.run(["sh", "-c", command], check=True)
        warm.end_descendants(os.getpid())
        return 0

    assert in_a_child(leave_a_daemon) == 0
    assert not lives(int(note.read_text()))


def test_a_task_writes_to_its_own_places_alone(tmp_path, monkeypatch):
    home, log = Path("/tmp", f"home-{os.getpid()}"), Path("/var/tmp", f"log-{os.getpid()}")
    log.touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(warm, "WRITABLE", ["/dev"])
    monkeypatch.setattr(sys, "argv", ["warm.py", "50"])
    home.mkdir()
    supervisor = os.getpid()

    def look():
        warm.confine(4321)
        if resource.getrlimit(resource.RLIMIT_NPROC) != (4321, 4321) or os.nice(0) < warm.NICE:
            return 3
        (home / "mine").touch()
        try:
            log.write_text("forged")
            return 1
        except PermissionError:
            pass
        try:
            os.kill(supervisor, signal.SIGCONT)
            return 2
        except PermissionError:
            return 0

    warm.libc().prctl(38, 1, 0, 0, 0)
    try:
        assert in_a_child(look) == 0
    finally:
        (home / "mine").unlink(missing_ok=True)
        home.rmdir()
        log.unlink()


def instance(state, host=None, **values):
    known = {"dag_id": "d", "task_id": "t", "run_id": "r", "try_number": 1, "map_index": -1, "max_tries": 0}
    ti = SimpleNamespace(id=uuid.uuid4(), state=state, hostname=host or get_hostname(), **{**known, **values})
    ti.key = TaskInstanceKey("d", "t", "r", 1, len(str(ti.id)))
    return ti


@pytest.fixture
def subject(monkeypatch):
    monkeypatch.setattr(executor, "SOCKETS", Path("/nonexistent"))
    monkeypatch.setattr(lost, "log_filename_template_renderer", lambda: lambda ti: "nowhere/attempt=1.log")
    subject = executor.RunnerExecutor(parallelism=2)
    subject._runners, subject._keys, subject._rerun, subject._looked, subject._sent = {}, {}, True, 0, False
    return subject


class Recorder:
    """A runner that takes everything."""

    draining = False

    def __init__(self, *known):
        self.known, self.taken, self.messages = {str(name) for name in known}, [], []

    def run(self, message):
        self.taken.append(message["run"])

    def send(self, message):
        pass


def test_known_tasks_are_kept_and_lost_ones_rerun_or_rescheduled(subject):
    running, gone = instance(TaskInstanceState.RUNNING), instance(TaskInstanceState.RUNNING)
    queued, elsewhere = instance(TaskInstanceState.QUEUED), instance(TaskInstanceState.RUNNING, "another")
    subject._runners[Path("a")] = Recorder(running.id)
    assert subject.try_adopt_task_instances([running, gone, queued, elsewhere]) == [gone]
    assert gone.max_tries == 1, "it uses up no retry"
    assert queued.state == TaskInstanceState.SCHEDULED, "nobody began it: the same try"
    assert subject.running == {running.key}


def test_lost_tasks_fail_if_the_setting_says_so(subject):
    gone = instance(TaskInstanceState.RUNNING)
    subject._runners[Path("a")], subject._rerun = Recorder(), False
    assert subject.try_adopt_task_instances([gone]) == []
    assert subject.event_buffer == {gone.key: (TaskInstanceState.FAILED, lost.LOST)}


def workload(name):
    return SimpleNamespace(key=CallbackKey(name), running_state=None, model_dump_json=lambda: "{}")


def test_a_workload_that_goes_on_waits_until_its_first_process_has_ended(subject):
    taker = subject._runners[Path("a")] = Recorder()
    first, again, other = workload("a"), workload("a"), workload("b")
    subject._process_workloads([first])
    subject._process_workloads([again, other])
    assert taker.taken == ["a", "b"]
    taker.messages = deque([{"id": "a", "key": ["CallbackKey", ["a"]], "state": "done", "error": None}])
    subject._note(taker)
    subject._process_workloads([again])
    assert taker.taken == ["a", "b", "a"]


def test_nothing_is_queued_while_no_runner_takes_anything(subject):
    assert subject.slots_available == 0
    full, taking = subject._runners[Path("a")], subject._runners[Path("b")] = Recorder(), Recorder()
    assert subject.slots_available == 2
    full.draining = taking.draining = True
    assert subject.slots_available == 0
    taking.messages = deque([{"draining": False}])
    subject._note(taking)
    assert subject.slots_available == 2


def test_a_workload_stays_in_its_queue_until_a_runner_has_it(subject):
    waiting = workload("a")
    subject.queued_callbacks[waiting.key] = waiting
    draining = subject._runners[Path("a")] = Recorder()
    draining.draining = True
    subject._process_workloads([waiting])
    assert subject.queued_callbacks and not draining.taken
    subject._runners[Path("b")] = Recorder()
    subject._process_workloads([waiting])
    assert not subject.queued_callbacks


def test_with_nothing_to_do_it_looks_less_often_a_minute_after_the_last_task(subject, monkeypatch):
    now, pauses = [1000.0], []
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(executor, "time", clock)
    monkeypatch.setattr(executor, "select", SimpleNamespace(select=lambda *given: pauses.append(given[-1])))
    subject._ready, subject._pause, subject._busy = True, 0.25, 0.0
    runner = subject._runners[Path("a")] = Recorder()
    runner.messages, runner.socket, runner.receive = deque(), None, lambda timeout: None
    monkeypatch.setattr(subject, "_look", lambda: True)
    for seconds, running in ((0, False), (0, True), (59, False), (2, False)):
        now[0] += seconds
        subject.running = {CallbackKey("a")} if running else set()
        subject.sync()
    assert pauses == [1, 0.25, 0.25, 1]


def test_a_runner_that_does_not_greet_is_tried_again_later(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "SOCKETS", tmp_path)
    monkeypatch.setattr(runner_client, "ANSWER_SECONDS", 0.1)
    subject._keys["a"] = CallbackKey("a")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "a.sock"))
        server.listen()
        assert not subject._look()
    assert subject._keys and not subject.event_buffer, "what it runs is not lost"
