"""Updates and rollbacks under load, releases that must not go live, runs that are cut off, restarts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e import load
from tests.e2e.conftest import ROOT, Play
from tests.e2e.load import Load

LIVE = "basename $(readlink /srv/airflow/current)"
DAG = """
from airflow.sdk import DAG
with DAG({name!r}, schedule=None):
    pass
"""
BAD = {
    "syntax.py": ("# airflow DAG\ndef f(:\n", r"dags/syntax.py:2: SyntaxError"),
    "package.py": ("# airflow DAG\nimport no_such_package\n", r"dags/package.py:2: ModuleNotFoundError: .*no_such"),
    "sleep.py": ("# airflow DAG\nimport time\ntime.sleep(30)\n", r"dags/sleep.py:3: .*AirflowTaskTimeout: .* after 2"),
    "twin.py": (DAG.format(name="twitter"), r"dags/twin.py:3 and dags/twitter_dag.py:\d+: both define the DAG twitter"),
    "cycle.py": (
        "from airflow.sdk import DAG\nfrom airflow.providers.standard.operators.empty import EmptyOperator as E\n"
        "with DAG('cycle', schedule=None):\n    a, b = E(task_id='a'), E(task_id='b')\n    a >> b >> a\n",
        r"dags/cycle.py:3: AirflowDagCycle",
    ),
}
UNKNOWN = """
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG
with DAG("unknown", schedule=None):
    SQLExecuteQueryOperator(task_id="a", sql="SELECT 1", conn_id="stockroom", pool="narrow")
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The project's DAGs and those of the load, to change at will."""
    return load.source(tmp_path_factory.mktemp("source"))


@pytest.fixture
def ship(server, source):
    """Run update.yml with the source, and return what it said."""

    def ship(*arguments: str, succeeds: bool = True, **files: str) -> Play:
        for name, text in files.items():
            (source / "etl" / f"{name}.py").write_text(text)
        return server.play("update.yml", "-e", f"release_source={source}", *arguments, succeeds=succeeds)

    return ship


def live(server) -> str:
    return server.run(LIVE).strip()


def words(play: Play) -> str:
    return " ".join(play.output.split())


def test_an_update_says_what_is_live(server, ship):
    before = live(server)
    look = ship("--check", "--diff")
    assert "would be live" in look.output and "+def sleepers():" in look.output and live(server) == before
    play = ship()
    assert re.search(r"; 3 DAGs added \(pulse, sleepers, walkers\)", words(play)), play.output
    for part in ("stage", "gate", "switch", "live"):
        assert re.search(rf"{part} [0-9.]+ s", words(play))
    dag = server.api().get(f"{server.url}/api/v2/dags/sleepers").json()
    assert dag["bundle_version"] == live(server) in play.output
    again = ship()
    assert again.changed == 0 and "live already" in again.output
    pattern = re.compile(r"\d{8}T\d{6}Z-(nocommit|[0-9a-f]{12}(-dirty)?)")
    assert pattern.fullmatch(live(server)) and pattern.fullmatch(before)


def test_the_user_interface_names_the_release_and_leads_to_its_commit(server):
    release, commit = live(server), "0123456789ab"
    (version, *_) = (
        server.api()
        .get(f"{server.url}/api/v2/dags/twitter/dagVersions?order_by=-version_number")
        .json()["dag_versions"]
    )
    assert version["bundle_url"] == f"{server.url}/releases/{release}" and version["bundle_version"] == release
    url = f"{server.url}/releases/20260101T000000Z-{commit}-dirty"
    answer = server.session().get(url, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (302, f"https://git.example.com/commit/{commit}")


def test_ten_updates_and_two_rollbacks_lose_nothing(server, ship):
    past = server.play("history.yml").output.count(" rollback ")
    with Load(server) as run:
        for number in range(10):
            ship(mark=f"NUMBER = {number}\n")
            if number in (4, 8):
                server.play("rollback.yml")
        run.start("sleepers", seconds=1)
    run.wait()
    assert run.failed_requests == {} and run.requests["200"] > 300
    assert run.lost() == [] and run.mixed() == [] and run.results() > 40
    query = f"SELECT DISTINCT bundle_version FROM dag_run r WHERE {run.mine} AND dag_id = 'walkers'"
    releases = set(run.sql(query).split())
    assert len(releases) > 4, "the load ran on too few releases to show anything"
    history = server.play("history.yml").output
    assert len(re.findall(r" update \S+ by \S+: live in", " ".join(history.split()))) > 9
    assert history.count(" rollback ") == past + 2


def test_restarts_lose_nothing(server):
    with Load(server) as run:
        for _ in range(3):
            said = server.run("airflow-restart")
            assert said.count("has taken over from") == 2
        # What an operator without airflow-restart does waits longer, and loses nothing either.
        server.run("systemctl restart airflow-triggerer airflow-dag-processor")
    run.wait()
    assert run.failed_requests == {} and run.lost() == [] and run.mixed() == []
    delays = run.delays()
    assert delays[int(0.95 * len(delays))] < 6
    server.play("check.yml")


def test_where_memory_is_short_one_stops_before_the_other_starts(server):
    unit = server.unit("api-server")
    server.run("sed 's/^MemAvailable:.*/MemAvailable: 300000 kB/' /proc/meminfo > /run/meminfo")
    server.run("mount --bind /run/meminfo /proc/meminfo")
    try:
        with Load(server) as run:
            said = server.run("airflow-restart api-server scheduler")
    finally:
        server.run("umount /proc/meminfo")
    assert "MB more would be needed" in said and "taken over" not in said and server.unit("api-server") == unit
    run.wait()
    assert run.failed_requests == {} and run.lost() == []


def test_a_release_that_must_not_go_live_does_not(server, source, ship):
    before = live(server)
    for name, (text, _) in BAD.items():
        (source / "dags" / name).write_text(text)
    try:
        play = ship("-e", "release_import_seconds=2", succeeds=False)
    finally:
        for name in BAD:
            (source / "dags" / name).unlink()
    for _, pattern in BAD.values():
        assert re.search(pattern, words(play)), (pattern, play.output[-3000:])
    assert f"{before} stays live" in words(play) and live(server) == before
    assert "refused" in server.play("history.yml").output


def test_what_a_dag_names_must_be_there(server, source, ship):
    (source / "dags" / "unknown.py").write_text(UNKNOWN)
    try:
        play = ship(succeeds=False)
    finally:
        (source / "dags" / "unknown.py").unlink()
    assert "dags/unknown.py:5: there is no connection stockroom; set airflow_connections.stockroom" in words(play)
    assert "dags/unknown.py:5: there is no pool narrow" in words(play)


def test_a_run_outlives_its_dags_move_and_holds_its_release(server, source, ship):
    """The next tasks of the run look for the DAG where its own release has it."""
    began = live(server)
    with Load(server, seconds=(1, 6), every=1000) as run:
        time.sleep(3)
        (source / "dags" / "load_dag.py").rename(source / "dags" / "moved_dag.py")
        ship("-e", "release_keep=1")
        ship("-e", "release_keep=1", mark="NUMBER = 'pruned'\n")
        assert began in server.run("ls /srv/airflow/releases").split(), "a release that a run needs was pruned"
        (source / "dags" / "moved_dag.py").rename(source / "load_dag.py")
        refused = ship(succeeds=False)
        assert re.search(r"no sleepers any more, and runs of it go on \(\d+\)", words(refused))
        (source / "load_dag.py").rename(source / "dags" / "load_dag.py")
    run.wait()
    assert run.lost() == [] and run.mixed() == []
    ship("-e", "release_keep=1")
    assert began not in server.run("ls /srv/airflow/releases").split()


def test_other_packages_come_without_a_loss_and_runs_keep_theirs(server, ship, tmp_path):
    lock = tmp_path / "requirements.txt"
    lock.write_text((ROOT / "roles/airflow/files/requirements.txt").read_text() + "# other packages\n")
    old = server.run("readlink -f /opt/airflow/venv").strip()
    with Load(server, seconds=(1, 12), every=8) as run:
        play = ship("-e", f"airflow_requirements_file={lock}")
    assert "other packages" in play.output
    run.wait()
    assert run.failed_requests == {} and run.lost() == [] and run.mixed() == []
    new = server.run("readlink -f /opt/airflow/venv").strip()
    prefixes = "SELECT DISTINCT r.bundle_version, x.value FROM xcom x JOIN dag_run r USING (dag_id, run_id)"
    for row in run.sql(
        f"{prefixes} WHERE x.task_id = 'prefix' AND r.start_date > now() - interval '5 min'"
    ).splitlines():
        release, prefix = row.split("|")
        assert json.loads(prefix) == (new if release == live(server) else old)
    assert old != new
    server.play("rollback.yml")
    assert server.run("readlink -f /opt/airflow/venv").strip() == old
    server.play("check.yml")


def test_another_airflow_is_left_to_site(ship, tmp_path):
    lock = tmp_path / "requirements.txt"
    text = (ROOT / "roles/airflow/files/requirements.txt").read_text()
    lock.write_text(re.sub(r"(?m)^apache-airflow==\S+", "apache-airflow==3.99.0", text))
    play = ship("-e", f"airflow_requirements_file={lock}", succeeds=False)
    assert "The lock file has Airflow 3.99.0" in words(play) and "run playbooks/site.yml" in words(play)


def test_a_full_disk_leaves_the_old_release_live(server, ship):
    before = live(server)
    server.run("mkdir -p /srv/airflow/staging && mount -t tmpfs -o size=24k tmpfs /srv/airflow/staging")
    try:
        play = ship(succeeds=False, mark="NUMBER = 'full'\n")
    finally:
        server.run("umount /srv/airflow/staging")
    assert "cannot be written" in play.output and "No space left" in play.output and live(server) == before
    ship()
    assert live(server) > before


def begin(server, source, number: int) -> subprocess.Popen:
    (source / "etl" / "mark.py").write_text(f"NUMBER = 'cut {number}'\n")
    return server.begin("update.yml", "-e", f"release_source={source}")


def whole(server) -> bool:
    """Whether the live release is what its manifest says."""
    check = (
        "import hashlib, json, pathlib; top = pathlib.Path('/srv/airflow/current'); "
        "files = json.loads((top / 'release.json').read_text())['files']; "
        "print(all(hashlib.sha256((top / n).read_bytes()).hexdigest() == d for n, d in files.items()))"
    )
    return server.run(f'python3 -c "{check}"').strip() == "True"


@pytest.mark.parametrize("seconds", [1.2, 2, 3, 4, 4.7])
def test_a_killed_update_harms_nothing_and_the_next_one_heals(server, source, ship, seconds):
    process = begin(server, source, int(seconds * 10))
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert whole(server)
    healed = ship()
    assert re.search(r"\S+ is live", words(healed)) and whole(server)
    assert ship().changed == 0
    dags = server.api().get(f"{server.url}/api/v2/dags").json()["dags"]
    assert {dag["bundle_version"] for dag in dags} == {live(server)}


def test_a_cut_connection_harms_nothing_and_the_next_update_heals(server, source, ship):
    process = begin(server, source, 0)
    while not server.run("cat /srv/airflow/lock").strip():
        assert process.poll() is None, "it ended before it took the lock"
    # Ends this command's own connection too.
    server.run("pkill -f 'sshd.*admin@notty'", check=False)
    output, _ = process.communicate()
    assert process.returncode and "UNREACHABLE" in output, "the connection was not cut in the middle"
    assert whole(server)
    ship()
    assert whole(server) and ship().changed == 0


def test_of_two_updates_the_second_stops(server, source, ship):
    slow = source / "dags" / "slow.py"
    slow.write_text("import time\ntime.sleep(4)\n" + DAG.format(name="slow"))
    first = begin(server, source, 1)
    time.sleep(3)
    second = ship(succeeds=False)
    assert re.search(r"has been at release \S+ since .* \(update\).*release_break_lock=true", words(second))
    output, _ = first.communicate()
    assert first.returncode == 0, output
    slow.unlink()
    ship()
    holder = {"user": "eve", "host": "elsewhere", "process": 1, "release": "r", "step": "switch", "since": "then"}
    server.run(f"echo '{json.dumps({**holder, 'until': time.time() + 600})}' > /srv/airflow/lock")
    assert "eve@elsewhere" in ship(succeeds=False, mark="NUMBER = 'locked'\n").output
    assert ship("-e", "release_break_lock=true").changed > 0
    assert "eve@elsewhere: cut off" in server.play("history.yml").output


def test_a_release_that_was_left_is_not_shipped_by_accident(server, ship):
    ship(mark="NUMBER = 'regretted'\n")
    bad = live(server)
    server.play("rollback.yml")
    assert f"rollback.yml -e release={bad}" in words(ship(succeeds=False))
    server.play("rollback.yml", "-e", f"release={bad}")
    assert live(server) == bad
    unknown = server.play("rollback.yml", "-e", "release=none", succeeds=False)
    assert bad in unknown.output and "-e release=ID" in words(unknown)


@contextlib.contextmanager
def deaf(server):
    """A DAG processor that runs and reads nothing."""
    folder = "/run/systemd/system/airflow-dag-processor.service.d"
    text = "[Service]\\nExecStart=\\nExecStart=/bin/sleep infinity\\n"
    server.run(f"mkdir -p {folder} && printf '{text}' > {folder}/deaf.conf && systemctl daemon-reload")
    server.run("systemctl restart airflow-dag-processor")
    try:
        yield
    finally:
        server.run(f"rm {folder}/deaf.conf && systemctl daemon-reload && systemctl restart airflow-dag-processor")


def test_what_airflow_does_not_take_is_put_back(server, ship):
    before = live(server)
    with deaf(server):
        play = ship("-e", "release_live_seconds=5", succeeds=False, mark="NUMBER = 'stuck'\n")
    assert "Airflow has not taken these DAGs" in words(play) and live(server) == before
    assert f"{before} is live again" in words(server.play("history.yml"))


def test_where_one_host_fails_the_others_go_back(server, machine, source):
    """Two servers in one inventory, each with a database of its own; the second does not take the release."""
    machine.play("site.yml", "--tags", "base,postgresql,airflow,release")

    def both(*arguments: str, succeeds: bool = True) -> Play:
        inventories = ["-i", str(machine.inventory)]
        return server.play("update.yml", *inventories, "-e", f"release_source={source}", *arguments, succeeds=succeeds)

    (source / "etl" / "mark.py").write_text("NUMBER = 'both'\n")
    server.play("update.yml", "-e", f"release_source={source}")
    alone = live(server)
    both()
    assert live(server) == live(machine) > alone, "one code must not have two names"
    before = live(server)
    (source / "etl" / "mark.py").write_text("NUMBER = 'one'\n")
    with deaf(machine):
        failed = both("-e", "release_live_seconds=5", succeeds=False)
    assert "Airflow has not taken these DAGs" in words(failed)
    assert live(server) == live(machine) == before
    assert "another host did not take" in words(server.play("history.yml"))
    both()
    assert live(server) == live(machine) > before


def test_the_projects_own_code_is_live_again(server):
    server.play("site.yml")
    play = server.play("site.yml")
    assert play.changed == 0, play.changed_tasks
