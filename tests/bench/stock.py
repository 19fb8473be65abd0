"""Stock Airflow on the same machine: its LocalExecutor, its server, its auth manager, its defaults, systemd's defaults.

It shares the packages, PostgreSQL, nginx and the machine with ours. Set are the database's address, the DAG folder,
no examples, login for everybody, and the number of tasks at once, because the default 32 fill the machine's memory
and never end.
"""

from __future__ import annotations

import secrets
import subprocess
import time
from pathlib import Path

import requests

from lab import __main__ as commands
from tests.server import Server, wait_until

HOME = "/srv/stock"
NAMES = ["api-server", "scheduler", "dag-processor", "triggerer"]
UNITS = " ".join(f"stock-{name}" for name in NAMES)
FIREWALL = "airstrip-firewall"
UNIT = """\
[Service]
User=stock
EnvironmentFile={home}/environment
ExecStart=/opt/airflow/venv/bin/airflow {name}
Restart=always
"""
ENVIRONMENT = """\
HOME={home}
AIRFLOW_HOME={home}
PATH=/opt/airflow/venv/bin:/usr/sbin:/usr/bin
SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=postgresql+psycopg2://stock:{password}@/stock?host=/run/postgresql
AIRFLOW__CORE__LOAD_EXAMPLES=false
AIRFLOW__CORE__PARALLELISM={parallelism}
AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS=true
"""


class Stock(Server):
    """The machine of `ours`, with stock Airflow on it; either runs while the other is off."""

    def __init__(self, ours: Server) -> None:
        super().__init__(ours.lab, ours.stack)
        self.ours = ours

    def install(self) -> None:
        """Make its user, its database and its units, unless they are there."""
        if self.run("systemctl cat stock-scheduler || true"):
            return
        password = secrets.token_hex(16)
        parallelism = self.run("sed -n 's/^parallelism = //p' /etc/airflow/airflow.cfg").strip()
        environment = ENVIRONMENT.format(home=HOME, password=password, parallelism=parallelism)
        self.run(f"useradd --create-home --home-dir {HOME} stock && mkdir {HOME}/dags && chmod 755 {HOME}")
        self.run(f"tee {HOME}/environment > /dev/null", stdin=environment)
        as_postgres = "runuser -u postgres --"
        self.run(f"{as_postgres} createuser stock; {as_postgres} createdb --owner=stock stock")
        self.run(f"{as_postgres} psql -q", stdin=f"ALTER ROLE stock PASSWORD '{password}'")
        rule = "local stock stock scram-sha-256"
        files = "/etc/postgresql/*/main/pg_hba.conf"
        self.run(f"sed -i '$a {rule}' {files} && systemctl reload postgresql@17-main")
        for name in NAMES:
            unit = UNIT.format(home=HOME, name=name)
            self.run(f"tee /etc/systemd/system/stock-{name}.service > /dev/null", stdin=unit)
        self.run(f"systemctl daemon-reload; chown -R stock {HOME}; apt-get install -qq -y rsync > /dev/null")
        self.airflow("db migrate")

    def airflow(self, arguments: str) -> str:
        """Run its command line."""
        return self.run(
            f"set -a; . {HOME}/environment; runuser -u stock -- /opt/airflow/venv/bin/airflow {arguments} 2>&1"
        )

    def on(self) -> None:
        """Stop ours and start it. Our firewall would keep its tasks from its API server."""
        self.run(f"systemctl stop airflow.target airflow-api-server.socket {FIREWALL}; systemctl start {UNITS}")
        self.wait_until_healthy()

    def off(self) -> None:
        """Stop it and start ours."""
        self.run(f"systemctl stop {UNITS}; systemctl start {FIREWALL} airflow.target")
        self.ours.wait_until_healthy()

    def restart(self) -> None:
        """Restart everything as its users do."""
        self.run(f"systemctl restart {UNITS}")

    def rsync(self, source: Path) -> float:
        """`rsync -a` from a folder of the host into its folder of DAGs; return when it began, of a monotonic clock."""
        pack = subprocess.run(["tar", "-C", source / "dags", "-c", "."], capture_output=True, check=True)
        etl = subprocess.run(["tar", "-C", source, "-c", "etl"], capture_output=True, check=True)
        unpack = "rm -rf /srv/incoming; mkdir -p /srv/incoming; tar -C /srv/incoming -x"
        for content, command in ((pack, unpack), (etl, "tar -C /srv/incoming -x")):
            receive = [*commands.ssh(self.lab, self.stack), "sudo", "bash", "-c", f"'{command}'"]
            subprocess.run(receive, input=content.stdout, check=True)
        self.run("echo etl/ > /srv/incoming/.airflowignore")
        began = time.monotonic()
        self.run(f"rsync -a --delete /srv/incoming/ {HOME}/dags/")
        return began

    def wait_for_dag(self, dag: str) -> None:
        """Wait until it knows a DAG."""
        query = f"SELECT count(*) FROM dag WHERE dag_id = '{dag}' AND NOT is_stale"
        wait_until(lambda: self.sql(query) == "1", 600, f"stock Airflow does not find {dag}", every=2)

    def sql(self, query: str, database: str = "stock") -> str:
        return super().sql(query, database)

    def api(self) -> requests.Session:
        session = self.session()
        answer = session.get(f"{self.url}/auth/token")
        assert answer.status_code == 201, answer.text
        session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return session


def run_seconds(server: Server, dag: str) -> float:
    """Run a DAG through the API; return the seconds from its first moment to its last, by Airflow's own clock."""
    url = f"{server.url}/api/v2/dags/{dag}/dagRuns"
    answer = server.logged_in.post(url, json={"logical_date": None})
    assert answer.status_code == 200, answer.text
    run = answer.json()["dag_run_id"]
    query = f"SELECT extract(epoch FROM end_date - start_date) FROM dag_run WHERE run_id = '{run}'"
    return float(wait_until(lambda: server.sql(f"{query} AND state = 'success'"), 600, f"{dag} does not end", every=1))
