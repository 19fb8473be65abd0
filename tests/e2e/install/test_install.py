"""The operator's story on Debian 13: install, again, look, use."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lab import disk, services
from lab.settings import BUCKET, Lab
from lab.x_api.people import lab_people, posts
from tests.e2e.conftest import keep, kept_name, one_at_a_time
from tests.server import ROOT, Server

COUNTS = ["like_count", "retweet_count"]


@pytest.fixture(scope="module")
def machine(lab, place) -> Server:
    """The lab's machine, made on EC2 and deployed to from nothing; the other groups' machines start from it."""
    machine = place.server("airstrip")
    with one_at_a_time() if not disk.kept(kept_name()) else contextlib.nullcontext():
        machine.play("provision.yml")
        # A look before the first change must work where nothing is installed yet.
        machine.play("site.yml", "--check", "--diff")
        machine.play("site.yml")
        if not disk.kept(kept_name()):
            keep(machine)
    return machine


def make(lab: Lab, target: str) -> str:
    """Run make as a newcomer does, and return what it printed."""
    # Not what the make that runs these tests tells its children.
    ambient = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment = {**ambient, **lab.environment}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    result = subprocess.run(["make", target], cwd=ROOT, env=environment, text=True, check=False, **streams)
    assert result.returncode == 0, result.stdout[-6000:]
    return result.stdout


@pytest.fixture(scope="module")
def closing(lab, machine) -> str:
    """The last words of `make lab`."""
    said = make(lab, "lab")
    return said[said.rindex("\nUI ") :]


@pytest.fixture(scope="module")
def server(machine, closing) -> Server:
    """The machine of `make lab`."""
    return machine


def test_make_lab_ends_with_where_to_look_and_what_was_made(server, closing):
    address = re.search(r"(?m)^UI +(https://\S+)/$", closing)[1]
    assert address == server.url and server.session().get(f"{address}/api/v2/version").status_code == 200
    assert re.search(r"(?m)^user +admin$", closing)
    assert re.search(r"(?m)^password +make lab-ssh, then: sudo cat /etc/airflow/secrets/admin_password$", closing)
    assert re.search(r"(?m)^posts +21 of \d{4}-\d\d-\d\d, bought for 0\.1[34] USD$", closing)
    s3 = server.aws("s3")
    keys = re.findall(r"(?m)^S3 key +s3://([^/]+)/(\S+posts\.csv)$", closing)
    assert len(keys) == 3
    for bucket, key in keys:
        assert s3.head_object(Bucket=bucket, Key=key)["ContentLength"] > 0
    page, folder = re.search(r"(?m)^report +(\S+) \(open it .*mails are in (\S+)$", closing).groups()
    bucket, key = re.search(r"(?m)^S3 key +s3://([^/]+)/(\S+report)\.html$", closing).groups()
    assert Path(page).read_bytes() == s3.get_object(Bucket=bucket, Key=f"{key}.html")["Body"].read()
    report = s3.get_object(Bucket=bucket, Key=f"{key}.txt")["Body"].read().decode()
    assert all(f"  {line}" in closing for line in report.splitlines()) and len(list(Path(folder).iterdir())) == 1
    days = server.sql("select count(distinct day), min(revenue) > 0 from (select day, sum(amount_eur) as revenue "
                      "from sales group by day) days", "warehouse")  # fmt: skip
    assert days.split("|") == ["14", "t"] and "CHECK FAILED" not in report


def test_second_run_changes_nothing(server):
    play = server.play("site.yml")
    assert play.changed == 0, play.changed_tasks


def test_check_mode_agrees(server):
    assert server.play("site.yml", "--check", "--diff").changed == 0


def test_the_doctor_is_content(server):
    said = make(server.lab, "lab-check")
    assert said.count("- ok ") == 25 and "FAIL" not in said
    # Where midnight came in between nothing, or no bill, is of today.
    spent = r"0\.1[34]\d* USD this month as of [-\d: ]+, (0\.1[34]\d*|0) of it today; most for \w+ 0\.0\d+"
    assert re.search(rf"ok spending X charged {spent}|no bill of this month", " ".join(said.split()))


def test_the_pipeline_lands_on_s3_and_a_second_run_gives_the_same_objects(server):
    s3 = server.aws("s3")
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    folder = f"curated/x/posts/dt={day:%Y-%m-%d}"
    contents = []
    # What `make lab` collected, and what a run after it leaves.
    for command in ([], ["run.yml", "-e", "dag=twitter"]):
        if command:
            server.play(*command)
        listing = [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{folder}/")["Contents"]]
        contents.append({key: s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in listing})
    assert contents[0] == contents[1]
    people = lab_people()
    files = [f"{folder}/user_id={person.id}/posts.csv" for person in people]
    assert sorted(contents[0]) == [f"{folder}/_manifest.json", *files]
    for person, file in zip(people, files, strict=True):
        rows = list(csv.DictReader(io.StringIO(contents[0][file].decode(), newline="")))
        expected = {post["id"]: post for post in posts(person, day)}
        assert {row["post_id"] for row in rows} == set(expected) and {row["username"] for row in rows} == {
            person.username
        }
        for row in rows:
            counts = expected[row["post_id"]]["public_metrics"]
            assert [int(row[name]) for name in COUNTS] == [counts[name] for name in COUNTS]


def test_one_screen_shows_server_status(server):
    said = server.play("status.yml").words
    shown = (r"Airflow 3\.\d", r"PostgreSQL \d+", r"release \d{8}T\d{6}Z", "airflow-triggerer.service active")
    for words in (*shown, r"SchedulerJob \d+ s ago", r"disk \d+ GiB free", "certificate good for", "X charged"):
        assert re.search(words, said), (words, said)
    screen = json.loads(server.run("airstrip status --json"))
    assert all(each["ok"] for each in screen["checks"].values()) and len(screen["units"]) == 7


def test_operators_type_what_they_know(server):
    assert "twitter" in server.run("airflow dags list 2>/dev/null")
    units = server.run("systemctl list-units --plain --no-legend 'airflow-*' | awk '{print $1, $3}'").split("\n")
    names = [f"airflow-{name}.service" for name in ("dag-processor", "triggerer", "webserver")]
    for unit in (*names, server.unit("api-server"), server.unit("runner"), server.unit("scheduler")):
        assert f"{unit} active" in units
    main_process = f"systemctl show -p MainPID --value {server.unit('api-server')}"
    before = server.run(main_process)
    server.run("systemctl restart airflow-webserver")
    after = server.run(main_process)
    assert before != after != "0\n"


def test_ansible_said_no_secret(server):
    names = server.run("cd /etc/airflow/secrets && ls").split()
    values = {name: server.run(f"cat /etc/airflow/secrets/{name}").strip() for name in names if "." not in name}
    values["x_api"] = services.x_api.bearer_token(server.lab)
    values["orders"] = services.shop.orders_password(server.lab)
    logs = (server.artefacts / f"{server.stack}.log").read_text()
    assert [name for name, value in values.items() if value in logs] == []


def test_make_lab_down_leaves_nothing(server):
    lab = server.lab
    make(lab, "lab-down")
    assert not lab.state.exists() and not Path("/sys/class/net", lab.bridge).exists()
    assert f"{lab.state}/" not in Path("/proc/self/mounts").read_text()
    left = subprocess.run(["pgrep", "--full", f"{lab.state}/"], text=True, capture_output=True, check=False).stdout
    assert left == ""
    tables = subprocess.run(["nft", "list", "tables"], text=True, capture_output=True, check=True).stdout
    assert f"airstrip_{lab.name}\n" not in tables
