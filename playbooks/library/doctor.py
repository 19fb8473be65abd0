#!/usr/bin/python
"""Examine an Airflow host from the inside."""

from __future__ import annotations

DOCUMENTATION = r"""
module: doctor
short_description: Examine an Airflow host from the inside
options:
  units:
    description: Units that should run; a list of two is a pair of which one should.
    type: list
    elements: list
    required: true
  components:
    description: Components of Airflow that should have a heartbeat.
    type: list
    elements: str
    required: true
  api:
    description: Address of the API server on this host.
    type: str
    required: true
  certificate_days:
    description: How many days the certificate must last.
    type: int
    required: true
  controller_time:
    description: The controller's clock, in seconds since 1970.
    type: float
    required: true
  administrator:
    description: The administrator's name.
    type: str
    required: true
  database:
    description: Name of the metadata database.
    type: str
    required: true
author: Airstrip
"""

EXAMPLES = r"""
- name: Look from the inside
  doctor:
    units: [nginx.service, [airflow-scheduler@a.service, airflow-scheduler@b.service]]
    components: [api-server, scheduler]
    api: http://127.0.0.1:8080
    certificate_days: 21
    administrator: admin
    database: airflow
    controller_time: "{{ now(utc=true).timestamp() }}"
"""

RETURN = r"""
findings:
  description: For each check its name, whether all is well, and a line that says so or how to mend it.
  type: list
  returned: always
"""

import calendar
import json
import re
import shutil
import time
import urllib.request
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.findings import Sick, examine

CHECKS = (
    "units",
    "health",
    "database",
    "dags",
    "disk",
    "clock",
    "certificate",
    "versions",
    "secrets",
    "libraries",
    "reboot",
)
# Whoever restarts these ends sessions.
AT_A_REBOOT = ("dbus", "getty@", "serial-getty@", "systemd-", "user@")
PROGRAMS = "/opt/airflow/airstrip/airstrip"


class Doctor:
    """One method a check; each returns what is well or raises Sick."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.administrator, self.database_name = module.params["administrator"], module.params["database"]

    def version(self) -> str:
        with urllib.request.urlopen(f"{self.module.params['api']}/api/v2/version", timeout=10) as answer:
            return json.load(answer)["version"]

    def output(self, *command: str, codes: tuple[int, ...] = (0,)) -> str:
        try:
            code, out, err = self.module.run_command(list(command), handle_exceptions=False)
        except OSError as error:
            raise Sick(f"{command[0]}: {error.strerror}", "run playbooks/site.yml") from None
        if code not in codes:
            said = (err or out).strip().splitlines()[-1:] or ["nothing"]
            raise Sick(
                f"{command[0]} said: {said[0]}", "sudo systemctl status airflow.target postgresql; run it by hand"
            )
        return out.strip()

    def units(self) -> str:
        dead = []
        for units in self.module.params["units"]:
            states = self.module.run_command(["systemctl", "is-active", *units])[1].split()
            if "active" not in states:
                dead.append(units[0])
        if dead:
            first = dead[0]
            raise Sick(
                f"not running: {', '.join(dead)}", f"sudo systemctl start {' '.join(dead)}; journalctl -eu {first}"
            )
        return f"all {len(self.module.params['units'])} run"

    def health(self) -> str:
        answer = self.output("airstrip", "health", *self.module.params["components"], codes=(0, 1))
        if sick := json.loads(answer)["sick"]:
            raise Sick(f"no heartbeat from {', '.join(sick)}", "sudo systemctl restart airflow.target")
        return "every component has a fresh heartbeat"

    def database(self) -> str:
        state = json.loads(
            self.output("airflow-run", "python", "-P", f"{PROGRAMS}/database.py", "state", self.administrator)
        )
        if state["migration_needed"]:
            raise Sick("the schema is not this Airflow's", "sudo airflow db migrate, or run playbooks/site.yml")
        return "at the revision that this Airflow needs"

    def dags(self) -> str:
        query = "SELECT filename || ': ' || split_part(stacktrace, E'\\n', -2) FROM import_error"
        errors = self.output("runuser", "-u", "postgres", "--", "psql", "-Atqc", query, self.database_name)
        if errors:
            raise Sick(
                f"import errors: {errors}",
                "correct the file and run playbooks/update.yml, or go back: playbooks/rollback.yml",
            )
        return "no import errors"

    def disk(self) -> str:
        usage = {path: shutil.disk_usage(path) for path in ("/", "/var/log/airflow", "/var/lib/postgresql")}
        full = [f"{path} {100 * u.used // u.total} %" for path, u in usage.items() if u.free < 0.1 * u.total]
        if full:
            raise Sick(f"nearly full: {', '.join(full)}", "lower airflow_log_retention_days, or enlarge the volume")
        return f"{min(u.free for u in usage.values()) // 2**30} GiB free"

    def clock(self) -> str:
        difference = abs(time.time() - self.module.params["controller_time"])
        if difference > 5:
            raise Sick(
                f"{difference:.0f} s away from the controller's", "sudo systemctl restart chrony; chronyc tracking"
            )
        return "agrees with the controller's"

    def certificate(self) -> str:
        path = re.search(r"ssl_certificate (\S+);", Path("/etc/nginx/snippets/airflow-tls.conf").read_text())[1]
        end = self.output("openssl", "x509", "-noout", "-enddate", "-in", path).partition("=")[2]
        days = (calendar.timegm(time.strptime(end, "%b %d %H:%M:%S %Y %Z")) - time.time()) / 86400
        if days < self.module.params["certificate_days"]:
            raise Sick(
                f"{path} ends in {days:.0f} days",
                "run site.yml --tags nginx, with a new one if you supply it; of ACME: sudo certbot renew",
            )
        return f"good for {days:.0f} days"

    def versions(self) -> str:
        running = self.version()
        (installed,) = Path("/opt/airflow/venv/lib").glob("python3*/site-packages/apache_airflow-*.dist-info")
        wanted = installed.stem.partition("-")[2]
        if running != wanted:
            raise Sick(f"Airflow {running} runs but {wanted} is installed", "sudo systemctl restart airflow.target")
        return f"Airflow {running}"

    def secrets(self) -> str:
        loose = self.output("find", "/etc/airflow/secrets", "(", "-perm", "/077", "-o", "!", "-user", "root", ")")
        if loose:
            raise Sick(f"readable by others: {loose}", "run playbooks/site.yml --tags airflow")
        return "only root reads them"

    def libraries(self) -> str:
        units = re.findall(r"(?m)^NEEDRESTART-SVC: (\S+)", self.output("needrestart", "-b", "-r", "l"))
        if units:
            ours = [unit for unit in units if unit.startswith("airflow-")]
            late = [unit for unit in units if unit.startswith(AT_A_REBOOT)]
            others = [unit for unit in units if unit not in [*ours, *late]]
            fixes = ["sudo airflow-restart"] * bool(ours) + ["run playbooks/reboot.yml"] * bool(late)
            fixes += [f"sudo systemctl restart {' '.join(others)}"] * bool(others)
            raise Sick(f"an upgrade replaced what these still use: {', '.join(units)}", "; ".join(fixes))
        return "every service uses what is installed"

    def reboot(self) -> str:
        if Path("/run/reboot-required").exists():
            packages = Path("/run/reboot-required.pkgs")
            names = sorted(set(packages.read_text().split())) if packages.exists() else ["an upgrade"]
            raise Sick(f"{', '.join(names)} takes effect after one", "run playbooks/reboot.yml, which waits for tasks")
        return "none is due"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "list", "required": True},
            "components": {"type": "list", "elements": "str", "required": True},
            "api": {"type": "str", "required": True},
            "certificate_days": {"type": "int", "required": True},
            "controller_time": {"type": "float", "required": True},
            "administrator": {"type": "str", "required": True},
            "database": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    doctor = Doctor(module)
    findings = examine({name: getattr(doctor, name) for name in CHECKS})
    module.exit_json(changed=False, findings=findings)


if __name__ == "__main__":
    main()
