"""The room that tasks run in: they outlive what happens to Airflow, and what they do affects them alone."""

from __future__ import annotations

import json
import re
import shutil
from datetime import timedelta
from typing import Any

import pytest

from tests.e2e import runs
from tests.e2e.load import DAGS, Load
from tests.server import Server, wait_until

SCHEDULERS = "'airflow-scheduler@*'"


@pytest.fixture(scope="module")
def loaded(server, checkout) -> Server:
    """The server, with the DAGs of the load and those that take more than is theirs."""
    shutil.copy(DAGS / "room_dag.py", checkout / "dags")
    server.play("update.yml", "-e", f"release_source={checkout}")
    return server


def goes_on(run: Load) -> None:
    """Wait for a pulse that began after this."""
    began = run.server.sql("SELECT clock_timestamp()")
    pulse = f"SELECT count(*) FROM dag_run WHERE dag_id = 'pulse' AND state = 'success' AND queued_at > '{began}'"
    wait_until(lambda: run.server.sql(pulse) != "0", 120, "nobody schedules")


def tries(server: Server, run: str) -> list[str]:
    """`task, state, try, most tries` of a run's tasks."""
    query = f"SELECT task_id, state, try_number, max_tries FROM task_instance WHERE run_id = '{run}' ORDER BY task_id"
    return server.sql(query).split()


def log(server: Server, run: str, number: int) -> str:
    """The log of a task's try."""
    return server.run(f"cat /var/log/airflow/*/run_id={run}/*/attempt={number}.log")


HAPPENINGS = {
    "stopped and started": f"systemctl stop {SCHEDULERS}; systemctl start airflow.target",
    "killed": f"systemctl kill -s KILL {SCHEDULERS}",
    "without a database": "systemctl kill -s KILL postgresql@17-main; systemctl stop postgresql@17-main; "
    "sleep 8; systemctl start postgresql@17-main",
    "without an API server": "systemctl stop airflow-api-server.socket 'airflow-api-server@*'; sleep 8; "
    "systemctl start airflow.target",
}


def test_tasks_outlive_what_happens_to_airflow(loaded):
    """All in one load: each task that succeeds in its first try has not noticed."""
    server = loaded
    with Load(server, seconds=(1, 25), every=20) as run, run.held() as held:
        for command in HAPPENINGS.values():
            server.run(command)
            server.wait_until_healthy()
            goes_on(run)
            assert "hold|running|1|0" in tries(server, held), command
    run.wait()
    assert run.lost() == [] and run.mixed() == []


def test_a_task_that_is_lost_with_its_runner_runs_again_without_using_up_a_retry(loaded):
    server = loaded
    with Load(server, every=1000) as run, run.held() as held:
        server.run("systemctl kill -s KILL --kill-whom=main 'airflow-runner@*'")
        wait_until(lambda: "hold|running|2|1" in tries(server, held), 120, lambda: tries(server, held))
        goes_on(run)
    run.wait()
    assert tries(server, held)[0] == "hold|success|2|1"
    assert "runs again, without using up a retry" in log(server, held, 1)


@pytest.mark.long
def test_a_lost_task_fails_if_the_setting_says_so(loaded):
    server = loaded
    server.run("sed -i 's/^rerun_lost_tasks = True/rerun_lost_tasks = False/' /etc/airflow/airflow.cfg")
    server.run("airflow-restart scheduler")
    try:
        with Load(server, every=1000) as run, run.held() as held:
            server.run("systemctl kill -s KILL --kill-whom=main 'airflow-runner@*'")
            wait_until(lambda: "hold|failed|1|0" in tries(server, held), 120, lambda: tries(server, held))
    finally:
        server.run("sed -i 's/^rerun_lost_tasks = False/rerun_lost_tasks = True/' /etc/airflow/airflow.cfg")
        server.run("airflow-restart scheduler")


def ended(server: Server, dag: str, **parameters: Any) -> tuple[str, str]:
    """Run a DAG of one task; return the run, and the state in which it ends."""
    answer = server.logged_in.post(
        f"{server.url}/api/v2/dags/{dag}/dagRuns", json={"logical_date": None, "conf": parameters}
    )
    run = answer.json()["dag_run_id"]
    state = f"SELECT state FROM dag_run WHERE run_id = '{run}' AND state IN ('success', 'failed')"
    return run, wait_until(lambda: server.sql(state), 180, f"{dag} does not end")


GREEDY = [
    pytest.param("eater", {}, r"held \d+ MB of memory, and airflow_task_memory", id="memory"),
    # Faster than anybody looks: the kernel's choice.
    pytest.param(
        "eater", {"seconds": 0}, "out of memory|airflow_task_memory", id="all at once", marks=pytest.mark.long
    ),
    pytest.param("bomb", {}, r"had \d+ processes, and airflow_task_processes", id="processes", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("dag", "parameters", "words"), GREEDY)
def test_a_task_that_takes_too_much_fails_alone_and_says_why(loaded, dag, parameters, words):
    server = loaded
    with Load(server, every=1000) as run, run.held() as held:
        greedy, state = ended(server, dag, **parameters)
        run.runs.append(greedy)
        assert state == "failed" and re.search(words, log(server, greedy, 1))
        assert "hold|running|1|0" in tries(server, held)
        notice = runs.wait_for_mails(server, greedy)[0]
        assert re.search(words, notice.get_body().get_content())
        goes_on(run)
    run.wait()
    assert [line for line in run.lost() if dag not in line] == []


def test_a_task_leaves_no_process(loaded):
    _, state = ended(loaded, "leaver")
    assert state == "success"
    # The scheduler hears of the end before all is tidied.
    wait_until(lambda: loaded.run("pgrep -fc '[s]leep 54321' || true").strip() == "0", 30, "the daemon lives on")


def test_a_task_reaches_nothing_of_airflow_or_of_other_tasks(loaded):
    server = loaded
    secret = "marker-of-the-probe"
    server.run("airflow variables set probe_password marker-of-the-probe 2>&1")
    before, _ = ended(server, "leaver")
    other = server.run(f"ls /var/log/airflow/*/run_id={before}/*/attempt=1.log").strip()
    run, state = ended(server, "prober", log=other, secret=secret)
    assert state == "success"
    value = server.sql(f"SELECT value FROM xcom WHERE run_id = '{run}' AND key = 'return_value'")
    found = json.loads(json.loads(value))
    assert found == {name: [] for name in ("readable", "writable", "sockets", "signals", "environment", "processes")}
    assert secret not in server.run("journalctl --no-pager -o cat -u 'airflow-runner@*' -u 'airflow-scheduler@*'")
    server.run(f"test -s {other}")


@pytest.mark.long
def test_the_reboot_playbook_waits_for_tasks_and_none_runs_again(loaded):
    server = loaded
    with Load(server, every=1000) as run:
        with run.held():
            process = server.begin("reboot.yml")
            state = f"systemctl show -p ActiveState --value {server.unit('runner')}"
            wait_until(lambda: "deactivating" in server.run(state), 120, "the runner does not stop")
        output, _ = process.communicate()
    assert process.returncode == 0, output
    run.wait()
    assert run.lost() == []


def test_after_a_reboot_everything_is_back_by_itself(loaded):
    server = loaded
    booted = "systemctl show -p UserspaceTimestampMonotonic"
    before = server.run(booted)
    with Load(server, seconds=(10,), every=1000) as run, run.held() as held:
        server.aws("ec2").reboot_instances(InstanceIds=[server.instance["InstanceId"]])
        wait_until(lambda: server.run(booted, check=False) not in {before, ""}, 180, "it did not boot", every=1)
        server.wait_until_healthy()
        wait_until(lambda: "hold|running|2|1" in tries(server, held), 120, lambda: tries(server, held))
    run.wait()
    assert "runs again, without using up a retry" in log(server, held, 1)
    # Whatever was lost ran again, all the same.
    joined = "task_instance t JOIN dag_run r USING (dag_id, run_id)"
    failed = server.sql(f"SELECT task_id, t.state FROM {joined} WHERE {run.mine} AND t.state <> 'success'")
    assert failed == ""
    server.play("check.yml")
    # A day that nobody has asked for.
    api, day = server.logged_in, runs.TODAY - timedelta(days=70)
    runs.unpause(server, api, "twitter")
    runs.wait(server, api, "twitter", runs.start(server, api, "twitter", day), "success")
    runs.pause(server, api, "twitter")
    assert f"curated/x/posts/dt={day}/_manifest.json" in runs.keys(server, f"curated/x/posts/dt={day}/")
