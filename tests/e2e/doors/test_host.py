"""Who reaches what on the host itself."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from lab import services
from tests.e2e.visitors import API, METADATA, as_user

# The users of the processes that have a secret in environment or command line, and the files that show it to everybody.
SEARCH = """
import json, os, pathlib, pwd, subprocess
secrets = json.loads('%s')
processes = {}
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        told = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
        user = pwd.getpwuid(folder.stat().st_uid).pw_name
    except (FileNotFoundError, ProcessLookupError):
        continue
    for name, value in secrets.items():
        if value.encode() in told:
            processes.setdefault(name, []).append(user)
files = {}
places = ["/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/local", "/var"]
for name, value in secrets.items():
    grep = ["runuser", "-u", "nobody", "--", "grep", "-rlsF", "-f", "-", "--exclude-dir=venvs", "--exclude-dir=cache"]
    said = subprocess.run([*grep, *places], input=value, text=True, capture_output=True).stdout
    if said:
        files[name] = said.split()
print(json.dumps({"processes": processes, "files": files}))
"""
# Closed to other users.
CLOSED = [
    "/etc/airflow/secrets",
    "/etc/airflow/airflow.cfg",
    "/etc/nginx/tls/key.pem",
    "/etc/postgresql/17/main/pg_hba.conf",
    "/home/admin",
    "/root",
    "/run/credentials",
    "/srv/airflow",
    "/var/lib/airflow-runner",
    "/var/lib/airflow-scheduler",
    "/var/lib/cloud/instance/user-data.txt",
    "/var/lib/postgresql/17/main",
    "/var/log/airflow",
    "/var/log/journal",
    "/var/log/nginx",
]
LOOK = f"""
import os
for top in {CLOSED}:
    if os.path.isfile(top):
        found = [top]
    else:
        found = [os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names]
    for path in found:
        try:
            open(path, "rb").read(1)
            print(path)
        except OSError:
            pass
"""
# Units of ours, and those that we close: their exposure for systemd-analyze security, at most.
EXPOSURE = {
    "airflow-api-server": 1.4,
    "airflow-runner": 1.8,
    "airflow-scheduler": 1.8,
    "airflow-dag-processor": 1.8,
    "airflow-triggerer": 1.8,
    "airflow-webserver": 2.8,
    "nginx": 2.7,
    "postgresql": 2.8,
}


@pytest.mark.door(14)
def test_ssh_takes_keys_forwards_nothing_and_notes_who_came(server):
    said = server.run("sshd -T -C user=admin,host=x,addr=192.0.2.1")
    for line in ("allowtcpforwarding no", "allowagentforwarding no", "loglevel VERBOSE", "passwordauthentication no"):
        assert line in said
    assert "permitrootlogin prohibit-password" in said or "permitrootlogin without-password" in said
    assert "sha1" not in re.search(r"(?m)^macs (.*)$", said)[1]


@pytest.mark.door(15)
@pytest.mark.parametrize("user", ["root", "airflow-tasks", "airflow-triggerer"])
def test_who_needs_the_role_gets_its_keys(server, user):
    assert as_user(server, user, METADATA) == "200"


@pytest.mark.door(15)
@pytest.mark.parametrize(
    "user", ["nobody", "www-data", "postgres", "airflow-api-server", "airflow-scheduler", "airflow-dag-processor"]
)
def test_nobody_else_gets_the_keys_of_the_role(server, user):
    assert as_user(server, user, METADATA) == ""


@pytest.mark.door(15)
def test_the_metadata_service_wants_a_token(server):
    ask = "import urllib.request as u\ntry: u.urlopen('http://169.254.169.254/latest/meta-data/', timeout=5)\n"
    assert as_user(server, "root", ask + "except Exception as error: print(error.code)") == "401"


@pytest.mark.door(18)
def test_another_user_of_the_host_reads_nothing(server):
    assert as_user(server, "root", LOOK).count("\n") > 50, "these places are not where this test looks"
    assert as_user(server, "nobody", LOOK) == ""
    assert server.run("runuser -u nobody -- journalctl --quiet --no-pager -n 5 2> /dev/null", check=False) == ""
    server.run("! runuser -u nobody -- psql -h /run/postgresql -c 'select 1' postgres")
    refusal = server.run("runuser -u nobody -- airflow dags list 2>&1", check=False)
    assert "sudo" in refusal


@pytest.mark.door(18)
def test_besides_nginx_only_tasks_reach_the_api_server(server):
    assert [as_user(server, user, API) for user in ("www-data", "airflow-tasks")] == ["200", "200"]
    assert [as_user(server, user, API) for user in ("nobody", "airflow-scheduler", "postgres")] == ["", "", ""]


@pytest.mark.door(18)
def test_each_unit_has_its_own_secrets_and_nobody_else_has_any(server):
    given = {server.unit("api-server"): {"database_url", "fernet_key", "jwt_secret", "api_secret_key"},
             server.unit("scheduler"): {"database_url", "fernet_key", "jwt_secret"},
             "airflow-dag-processor.service": {"database_url", "fernet_key"},
             "airflow-triggerer.service": {"database_url", "fernet_key"}}  # fmt: skip
    for unit, expected in given.items():
        assert set(server.run(f"ls /run/credentials/{unit}").split()) == expected, unit
    server.run(f"! test -e /run/credentials/{server.unit('runner')}")
    # As the user of one component, the credentials of another are out of reach.
    server.run(f"! runuser -u airflow-dag-processor -- cat /run/credentials/{server.unit('scheduler')}/jwt_secret")


@pytest.mark.door(19)
def test_the_database_knows_airflow_as_airflow_alone(server):
    ask = "PGPASSWORD=$(cat /etc/airflow/secrets/database_password) psql -h /run/postgresql -U airflow -tA"
    assert server.run(f"{ask} -d airflow -c 'select 1'").strip() == "1"
    for database in ("postgres", "template1", "warehouse"):
        server.run(f"! {ask} -d {database} -c 'select 1' 2> /dev/null")
    rights = "rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls"
    assert server.sql(f"SELECT count(*) FROM pg_roles WHERE rolname IN ('airflow', 'warehouse') AND ({rights})") == "0"
    for query in (
        "COPY dag FROM PROGRAM 'id'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
    ):
        server.run(f"! {ask} -d airflow -c {shlex.quote(query)} 2> /dev/null")
    server.run(f"! {ask.replace('/run/postgresql', '127.0.0.1')} -d airflow -c 'select 1' 2> /dev/null")


@pytest.mark.door(20)
def test_no_secret_is_visible_to_others(server):
    names = server.run("cd /etc/airflow/secrets && ls").split()
    values = {name: server.run(f"cat /etc/airflow/secrets/{name}").strip() for name in names if "." not in name}
    passwords = {"database_password", "warehouse_password", "admin_password"}
    assert set(values) >= {"fernet_key", "jwt_secret", "api_secret_key", *passwords}
    # Those of the tasks' connections are in the environment of the units that may use them, and of no other process.
    tasks = {"x_api": services.x_api.bearer_token(server.lab), "warehouse": values.pop("warehouse_password")}
    allowed = {"airflow-tasks", "airflow-dag-processor", "airflow-triggerer"}
    # Through standard input: a command line could be seen too.
    found = json.loads(server.run("python3 -", stdin=SEARCH % json.dumps({**values, **tasks})))
    assert set(found["processes"]) == set(tasks), found
    assert {user for users in found["processes"].values() for user in users} == allowed
    assert found["files"] == {}
    journal = server.run("journalctl --no-pager -o cat")
    assert "Bearer ey" not in journal
    assert [name for name, value in {**values, **tasks}.items() if value in journal] == []


@pytest.mark.door(20)
def test_a_command_leaves_no_password_in_the_journal(server):
    marker = "marker-of-the-doors"
    # Through standard input: sudo itself notes what it is told.
    server.run("bash -s", stdin=f"airflow connections add probe --conn-type http --conn-password {marker}\n")
    server.run("bash -s", stdin="airflow connections delete probe\n")
    assert marker not in server.run("journalctl --no-pager -o cat")


@pytest.mark.door(20)
def test_ansible_says_no_secret(server, monkeypatch):
    """Not even at its most verbose, showing what it would change."""
    monkeypatch.setattr(server, "ansible", {})
    # A unit of each kind, the file with the tasks' secrets and the database's password would change.
    changed = {"airflow_task_environment": {"AWS_DEFAULT_REGION": "eu-west-1"}, "airflow_parallelism": 3}
    said = server.play("site.yml", "-vvv", "--check", "--diff", "-e", json.dumps(changed))
    assert said.changed > 0 and "+parallelism = 3" in said.output
    names = server.run("cd /etc/airflow/secrets && ls").split()
    values = {name: server.run(f"cat /etc/airflow/secrets/{name}").strip() for name in names if "." not in name}
    values["x_api"] = services.x_api.bearer_token(server.lab)
    values["orders"] = services.shop.orders_password(server.lab)
    assert [name for name, value in values.items() if value in said.output] == []


def test_an_operators_command_sees_no_more_secrets_than_it_needs(server):
    look = "import os; print(sorted(os.listdir(os.environ['CREDENTIALS_DIRECTORY'])))"
    assert server.run(f"airflow-run python -c {shlex.quote(look)}").strip() == "['database_url', 'fernet_key']"
    assert "admin" in server.run("airflow users list 2> /dev/null")


def test_no_unit_of_ours_is_exposed(server):
    listed = "systemctl list-units --plain --no-legend --state=active 'airflow-*.service' | cut -d' ' -f1"
    for unit in [*server.run(listed).split(), "nginx.service", "postgresql@17-main.service"]:
        said = server.run(f"systemd-analyze security --no-pager {unit} | tail -1")
        limit = EXPOSURE[re.match(r"[\w-]+", unit)[0]]
        assert float(re.search(r": ([0-9.]+) ", said)[1]) <= limit, said


def test_logs_and_packages_go_before_they_fill_the_disk(server):
    """The unit as it is shipped, but with places and limits that make it act."""
    folder, cache = "/var/log/airflow/dag_id=old", "/var/cache/probe"
    server.run(f"mkdir -p {folder} && fallocate -l 20M {folder}/attempt=1.log && touch -d '2 days ago' {folder}/*")
    server.run(f"mkdir -p {cache} && fallocate -l 2M {cache}/wheel")
    newest = server.run("find /var/log/airflow -type f -mmin -50 | wc -l")
    settings, program = "/run/systemd/system/airstrip-tidy.service.d", "/opt/airflow/airstrip/airstrip/tidy.py"
    lines = [
        "[Service]",
        "ExecStart=",
        f"ExecStart=/usr/bin/python3 -P {program} logs /var/log/airflow 10",
        f"ExecStart=/usr/bin/python3 -P {program} cache {cache} 1 $(ls -d /opt/airflow/uv-*/bin/uv)",
        f"ReadWritePaths={cache}",
    ]
    server.run(f"mkdir -p {settings} && cat > {settings}/small.conf <<END\n" + "\n".join(lines) + "\nEND\n")
    try:
        server.run("systemctl daemon-reload && systemctl start airstrip-tidy")
    finally:
        server.run(f"rm -r {settings} && systemctl daemon-reload")
    server.run(f"! test -e {folder}/attempt=1.log && ! test -e {cache}/wheel")
    assert int(server.run("find /var/log/airflow -type f -mmin -50 | wc -l")) >= int(newest)
    server.run("systemctl start airstrip-tidy && systemctl is-active airstrip-tidy.timer")
