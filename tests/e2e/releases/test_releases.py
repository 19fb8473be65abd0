"""Updates and rollbacks under load, releases that must not go live, runs that are cut off, restarts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from datetime import timedelta

import pytest

from tests.broken_trees import BROKEN, write
from tests.e2e import load, runs
from tests.e2e.load import Load
from tests.e2e.updates import begin, deaf, killed, live, slow, wait_for_step, whole
from tests.server import ROOT, Play, Server

UNKNOWN = """
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG
with DAG("unknown", schedule=None):
    SQLExecuteQueryOperator(task_id="a", sql="SELECT 1", conn_id="stockroom", pool="narrow")
"""


def test_an_update_says_what_is_live_and_of_which_commit(server, source, ship):
    before, commit = live(server), load.git(source, "rev-parse", "--short=12", "HEAD")
    look = ship("--check", "--diff")
    assert "would be live" in look.output and "+def sleepers():" in look.output and live(server) == before
    play = ship()
    assert re.search(r"; 4 DAGs added \(holders, pulse, sleepers, walkers\)", play.words), play.output
    for part in ("stage", "gate", "switch", "live"):
        assert re.search(rf"{part} [0-9.]+ s", play.words)
    dag = server.logged_in.get(f"{server.url}/api/v2/dags/sleepers").json()
    assert dag["bundle_version"] == live(server) in play.output
    # The same commit, read from a Git address.
    branch = load.git(source, "rev-parse", "--abbrev-ref", "HEAD")
    address = ["-e", f"release_source=file://{source}", "-e", f"release_version={branch}"]
    again = server.play("update.yml", *address)
    assert again.changed == 0 and "live already" in again.output
    assert re.fullmatch(rf"\d{{8}}T\d{{6}}Z-{commit}", live(server))
    ship(mark="NUMBER = 'changed'\n")
    assert live(server).endswith(f"Z-{commit}-dirty")


def test_the_user_interface_names_the_release_and_leads_to_its_commit(server):
    release, commit = live(server), "0123456789ab"
    (version, *_) = server.logged_in.get(
        f"{server.url}/api/v2/dags/twitter/dagVersions?order_by=-version_number"
    ).json()["dag_versions"]
    assert version["bundle_url"] == f"{server.url}/releases/{release}" and version["bundle_version"] == release
    url = f"{server.url}/releases/20260101T000000Z-{commit}-dirty"
    answer = server.session().get(url, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (302, f"https://git.example.com/commit/{commit}")


def test_updates_and_a_rollback_lose_nothing(loaded, ship):
    """A few, one of them back; `make soak NAME=updates` tries many."""
    server = loaded
    with Load(server, every=6, poll=0.2, pulse=2) as run:
        for number in range(3):
            ship(mark=f"NUMBER = {number}\n")
        server.play("rollback.yml")
        run.start("sleepers", seconds=1)
    run.wait()
    assert run.failed_requests == {} and run.requests["200"] > 50
    assert run.lost() == [] and run.mixed() == [] and run.results() > 20
    query = f"SELECT DISTINCT bundle_version FROM dag_run r WHERE {run.mine} AND dag_id = 'walkers'"
    releases = set(server.sql(query).split())
    assert len(releases) > 2, "the load ran on too few releases to show anything"
    done = re.findall(r" (update|rollback) \S+ by \S+: live in", server.play("history.yml").words)
    assert done[-4:] == ["update"] * 3 + ["rollback"]


def test_a_release_that_must_not_go_live_does_not(server, source, ship):
    """And a laptop says of it what the server says."""
    before = live(server)
    bad = [tree for tree in BROKEN.values() if not tree.whole]
    write(source, bad)
    try:
        play = ship("-e", "release_import_seconds=2", "-e", "release_import_mb=300", succeeds=False)
        laptop = subprocess.run(
            ["make", "gate", f"SOURCE={source}"],
            cwd=ROOT,
            env={**os.environ, "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "2"},
            text=True,
            capture_output=True,
            check=False,
        )
    finally:
        for tree in bad:
            for name in tree.files:
                (source / name).unlink()
    assert laptop.returncode
    for tree in bad:
        (said,) = re.findall(rf"(?m)^({tree.words}.*)$", laptop.stdout)
        if "MB to import" not in said:
            assert " ".join(said.split()) in play.words, play.output[-5000:]
        assert re.search(tree.words, play.words), (tree.words, play.output[-5000:])
    assert f"{before} stays live" in play.words and live(server) == before
    assert "refused" in server.play("history.yml").output


def test_what_cannot_be_shipped_is_named(server, source, ship):
    before = live(server)
    (source / "dags" / "out.py").symlink_to("../../elsewhere.py")
    try:
        play = ship(succeeds=False)
    finally:
        (source / "dags" / "out.py").unlink()
    assert "dags/out.py -> ../../elsewhere.py leads out of dags/, etl/ and plugins/" in play.words
    assert live(server) == before


def test_what_a_dag_names_must_be_there(server, source, ship):
    (source / "dags" / "unknown.py").write_text(UNKNOWN)
    try:
        play = ship(succeeds=False)
    finally:
        (source / "dags" / "unknown.py").unlink()
    assert "dags/unknown.py:5: there is no connection stockroom; set airflow_connections.stockroom" in play.words
    assert "dags/unknown.py:5: there is no pool narrow" in play.words


VARIABLE = """
from airflow.sdk import DAG, Variable
with DAG("shelves", schedule=None, tags=[Variable.get("shelf")]):
    pass
"""


@pytest.mark.long
def test_a_dag_may_ask_the_database_for_a_variable(server, source, ship):
    """As it may in the DAG processor."""
    api, url = server.logged_in, f"{server.url}/api/v2"
    assert api.post(f"{url}/variables", json={"key": "shelf", "value": "upper"}).status_code == 201
    (source / "dags" / "shelves.py").write_text(VARIABLE)
    ship()
    assert [tag["name"] for tag in api.get(f"{url}/dags/shelves").json()["tags"]] == ["upper"]


def test_a_run_outlives_its_dags_move_and_holds_its_release(loaded, source, ship):
    """The next tasks of the run look for the DAG where its own release has it."""
    server, dags = loaded, source / "dags"
    began = live(server)
    with Load(server, every=1000) as run, run.held():
        (dags / "load_dag.py").rename(dags / "moved_dag.py")
        ship("-e", "release_keep=1")
        ship("-e", "release_keep=1", mark="NUMBER = 'pruned'\n")
        assert began in server.run("ls /srv/airflow/releases").split(), "a release that a run needs was pruned"
        (dags / "moved_dag.py").unlink()
        refused = ship(succeeds=False)
        assert re.search(r"no holders any more, and runs of it go on \(1\)", refused.words)
    run.wait()
    assert run.lost() == [] and run.mixed() == []
    load.git(source, "reset", "--quiet", "--hard")
    ship("-e", "release_keep=1")
    assert began not in server.run("ls /srv/airflow/releases").split()


# Airflow's own examples: what each takes from plugins/, under the name that it has there.
PLUGINS = {"example_custom_weight": "decreasing_priority_weight_strategy", "example_workday_timetable": "workday"}


def with_plugins(source) -> None:
    """Add the examples to a source, and their plugins."""
    (examples,) = (ROOT / "build/airflow/lib").glob("python3*/site-packages/airflow/example_dags")
    (source / "plugins").mkdir()
    for dag, plugin in PLUGINS.items():
        (source / "plugins" / f"{plugin}.py").write_text((examples / "plugins" / f"{plugin}.py").read_text())
        text = (examples / f"{dag}.py").read_text().replace("airflow.example_dags.plugins.", "")
        (source / "dags" / f"{dag}.py").write_text(text)


@pytest.mark.long
def test_other_packages_and_plugins_come_without_a_loss_and_runs_keep_theirs(loaded, source, ship, tmp_path):
    server, api, lock, before = loaded, loaded.logged_in, tmp_path / "requirements.txt", live(loaded)
    # Without a package that no other one needs.
    text = (ROOT / "roles/airflow/files/requirements.txt").read_text()
    less, count = re.subn(r"(?m)^apache-airflow-providers-git==.*\n( +--hash=.*\n)+", "", text)
    assert count == 1
    lock.write_text(less)
    with_plugins(source)
    old = server.run("readlink -f /opt/airflow/venv").strip()
    with Load(server, every=20) as run:
        with run.held():
            play = ship("-e", f"airflow_requirements_file={lock}")
        run.start("holders", gate="/run")
    assert "other packages" in play.words
    run.wait()
    assert run.failed_requests == {} and run.lost() == [] and run.mixed() == []
    new = server.run("readlink -f /opt/airflow/venv").strip()
    prefixes = "SELECT DISTINCT r.bundle_version, x.value FROM xcom x JOIN dag_run r USING (dag_id, run_id)"
    rows = server.sql(f"{prefixes} WHERE x.task_id = 'prefix' AND {run.mine}").splitlines()
    found = {release: json.loads(prefix) for release, prefix in (row.split("|") for row in rows)}
    # The task that came after the held one began when the packages had changed, and kept those of its release.
    assert old != new and found == {**dict.fromkeys(found, old), live(server): new}
    assert len(found) == 2
    for dag in PLUGINS:
        runs.unpause(server, api, dag)
        runs.wait(server, api, dag, runs.start(server, api, dag, runs.TODAY - timedelta(days=2)), "success")
    again = ship("-e", f"airflow_requirements_file={lock}", mark="NUMBER = 'same plugins'\n")
    assert again.words.count("has taken over") == 0
    names = {plugin["name"] for plugin in api.get(f"{server.url}/api/v2/plugins").json()["plugins"]}
    assert names >= {"workday_timetable_plugin", "decreasing_priority_weight_strategy_plugin"}
    with Load(server, every=20) as run:
        server.play("rollback.yml", "-e", f"release={before}")
    run.wait()
    assert run.failed_requests == {} and run.lost() == [] and run.mixed() == []
    assert server.run("readlink -f /opt/airflow/venv").strip() == old
    assert server.run("ls /srv/airflow/plugins/", check=False) == ""
    server.play("check.yml")


@pytest.mark.long
def test_another_airflow_is_left_to_upgrade(ship, tmp_path):
    lock = tmp_path / "requirements.txt"
    text = (ROOT / "roles/airflow/files/requirements.txt").read_text()
    lock.write_text(re.sub(r"(?m)^apache-airflow==\S+", "apache-airflow==3.99.0", text))
    play = ship("-e", f"airflow_requirements_file={lock}", succeeds=False)
    assert "is of 3.99.0: run playbooks/upgrade.yml" in play.words


@pytest.mark.long
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


def test_a_killed_update_harms_nothing_and_the_next_one_heals(loaded, source, ship):
    """Killed as it goes live; the unit tests of the engine cut it off before each single change."""
    server = loaded
    with contextlib.ExitStack() as outliving:
        with deaf(server) as sign:
            process = begin(server, source)
            wait_for_step(server, process, sign)
            outliving.enter_context(killed(process))
            assert whole(server)
        healed = ship()
        assert re.search(r"\S+ is live", healed.words) and whole(server)
        assert ship().changed == 0
    dags = server.logged_in.get(f"{server.url}/api/v2/dags").json()["dags"]
    assert {dag["bundle_version"] for dag in dags} == {live(server)}


@pytest.mark.long
def test_a_cut_connection_harms_nothing_and_the_next_update_heals(loaded, source, ship):
    server = loaded
    with slow(server, source) as sign:
        process = begin(server, source)
        wait_for_step(server, process, sign)
        # Ends this command's own connection too.
        server.run("pkill -f 'sshd.*admin@notty'", check=False)
        output, _ = process.communicate()
    assert process.returncode and "UNREACHABLE" in output, "the connection was not cut in the middle"
    assert whole(server)
    ship()
    assert whole(server) and ship().changed == 0


@pytest.mark.long
def test_a_concurrent_update_is_refused(loaded, source, ship):
    server = loaded
    with slow(server, source) as sign:
        first = begin(server, source)
        wait_for_step(server, first, sign)
        second = begin(server, source)
        refused, _ = second.communicate()
    said = " ".join(refused.split())
    assert second.returncode and re.search(
        r"has been at release \S+ since .* \(update\).*release_break_lock=true", said
    )
    output, _ = first.communicate()
    assert first.returncode == 0, output
    ship()
    holder = {"user": "eve", "host": "elsewhere", "process": 1, "release": "r", "step": "switch", "since": "then"}
    server.run(f"echo '{json.dumps({**holder, 'until': time.time() + 600})}' > /srv/airflow/lock")
    assert "eve@elsewhere" in ship(succeeds=False, mark="NUMBER = 'locked'\n").output
    assert ship("-e", "release_break_lock=true").changed > 0
    assert "eve@elsewhere: cut off" in server.play("history.yml").output


@pytest.mark.long
def test_a_release_that_was_left_is_not_shipped_by_accident(server, ship):
    ship(mark="NUMBER = 'regretted'\n")
    bad = live(server)
    server.play("rollback.yml")
    assert f"rollback.yml -e release={bad}" in ship(succeeds=False).words
    server.play("rollback.yml", "-e", f"release={bad}")
    assert live(server) == bad
    unknown = server.play("rollback.yml", "-e", "release=none", succeeds=False)
    assert bad in unknown.output and "-e release=ID" in unknown.words


def test_an_update_not_taken_is_rolled_back(server, ship):
    before = live(server)
    with deaf(server):
        play = ship("-e", "release_live_seconds=5", succeeds=False, mark="NUMBER = 'stuck'\n")
    assert "Airflow has not taken these DAGs" in play.words and live(server) == before
    assert f"{before} is live again" in server.play("history.yml").words


@pytest.fixture(scope="module")
def other(lab, place) -> Server:
    """A second server, with a database of its own."""
    return place.deployed("other", aws_bucket="airstrip-other")


@pytest.mark.long
def test_where_one_host_fails_the_others_go_back(server, other, source):
    """The second does not take the release."""

    def both(*arguments: str, succeeds: bool = True) -> Play:
        inventories = ["-i", str(other.inventory)]
        return server.play("update.yml", *inventories, "-e", f"release_source={source}", *arguments, succeeds=succeeds)

    (source / "etl" / "mark.py").write_text("NUMBER = 'both'\n")
    server.play("update.yml", "-e", f"release_source={source}")
    alone = live(server)
    both()
    assert live(server) == live(other) > alone, "one code must not have two names"
    before = live(server)
    (source / "etl" / "mark.py").write_text("NUMBER = 'one'\n")
    with deaf(other):
        failed = both("-e", "release_live_seconds=5", succeeds=False)
    assert "Airflow has not taken these DAGs" in failed.words
    assert live(server) == live(other) == before
    assert "another host did not take" in server.play("history.yml").words
    both()
    assert live(server) == live(other) > before
