"""What is looked at on this host: what is well, what is not, and what fixes it.

Standard library only: it works even if no virtualenv is whole.
"""

from __future__ import annotations

import calendar
import json
import re
import shutil
import subprocess
import time
import urllib.error
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from airstrip.components import sick
from airstrip.watch.busy import somebody_is_at_it
from airstrip.watch.dags import LATE_RUNS, PIPELINES, problems
from airstrip.watch.done import done, last_words
from airstrip.watch.figures import full_in_days, slower_since
from airstrip.watch.findings import Settings, Sick
from airstrip.watch.probes import answer, answer_to_a_task
from airstrip.watch.sessions import WAITING, NoDatabase, ask

# What airstrip-clean notes each week.
SIZES = "/var/lib/airstrip-clean/sizes.csv"
TRIAL = "/var/lib/airstrip-drill/result.json"
PROGRAMS = str(Path(__file__).parents[1])
# A program of Airflow's own virtualenv, in the sandbox and with the secrets of the services.
OWN = ("airflow-run", "python", "-P")
# Restarting these ends sessions.
AT_A_REBOOT = ("dbus", "getty@", "serial-getty@", "systemd-", "user@")
LOOK_SECONDS = 60
# An API server's first answer to a task takes long, and blocks all others meanwhile.
ANSWER_SECONDS = 30
DAY_SECONDS = 86400
# Being replaced this often in a day did not help.
OFTEN = 5
FULL_DAYS = 7
# A segment of the history is on its way to the bucket for some seconds.
WAITING_SECONDS = 45


class Doctor:
    """One method per check; each returns what is well or raises Sick."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def run(self, command: Sequence[str]) -> tuple[int, str, str]:
        """Run a command; return its exit code and what it said."""
        done = subprocess.run(
            list(command), text=True, capture_output=True, check=False, timeout=LOOK_SECONDS, stdin=subprocess.DEVNULL
        )
        return done.returncode, done.stdout, done.stderr

    def output(self, *command: str) -> str:
        """Return what a command says. Raises Sick where it fails."""
        try:
            code, out, err = self.run(command)
        except OSError as error:
            raise Sick(f"{command[0]}: {error.strerror}", "run playbooks/site.yml") from None
        except subprocess.TimeoutExpired:
            raise Sick(f"{command[0]} said nothing for {LOOK_SECONDS} s", "run it by hand") from None
        if code:
            said = (err or out).strip().splitlines()[-1:] or ["nothing"]
            raise Sick(
                f"{command[0]} said: {said[0]}", "sudo systemctl status airflow.target postgresql; run it by hand"
            )
        return out.strip()

    def sql(self, query: str) -> str:
        """Return the rows of Airflow's database, with | between columns. Raises Sick."""
        try:
            return "\n".join("|".join(row) for row in ask(query, self.settings.database))
        except NoDatabase as error:
            raise Sick(f"PostgreSQL: {error}", "sudo systemctl status postgresql") from None

    @cached_property
    def states(self) -> dict[str, str]:
        """What systemd says of each unit that it knows. Asked once: a start of systemctl costs more than its answer."""
        said = self.output("systemctl", "list-units", "--all", "--full", "--plain", "--no-legend")
        return {fields[0]: fields[2] for line in said.splitlines() if len(fields := line.split()) > 2}

    def units(self) -> str:
        dead, failed = [], []
        for units in self.settings.units:
            states = [self.states.get(unit, "inactive") for unit in units]
            if "active" not in states:
                # Of a pair that which failed, or the first.
                crashed = [unit for unit, state in zip(units, states, strict=True) if state == "failed"]
                dead += crashed or units[:1]
                failed += crashed
        if dead:
            first = (failed or dead)[0]
            why = f", which said last: {last_words(first)}" if failed else ""
            raise Sick(
                f"not running: {', '.join(dead)}{why}", f"sudo systemctl start {' '.join(dead)}; journalctl -eu {first}"
            )
        return f"all {len(self.settings.units)} run"

    def jobs(self) -> str:
        jobs = (unit for unit, state in self.states.items() if unit.startswith("airstrip-") and state == "failed")
        if failed := sorted(jobs):
            raise Sick(f"failed last time: {', '.join(failed)}", f"journalctl -eu {failed[0]}")
        return "every timer's job succeeded last time"

    def healing(self) -> str:
        """Tell what was replaced or ended by itself, and what that did not help."""
        if not self.settings.heal:
            return "off, watch_heal is false"
        if self.states.get("airstrip-heal.service") != "active":
            raise Sick("what hangs is not replaced", "sudo systemctl start airstrip-heal; journalctl -eu airstrip-heal")
        if somebody_is_at_it(time.time()):
            return "paused while a playbook works on this host"
        last = done(time.time() - DAY_SECONDS)
        if not last:
            return "nothing had to be replaced since yesterday"
        at = time.strftime("%H:%M", time.gmtime(last[-1]["at"]))
        said = f"{len(last)} times since yesterday, last {last[-1]['unit']} at {at} UTC, {last[-1]['what']}"
        often = [unit for unit, times in Counter(each["unit"] for each in last).items() if times >= OFTEN]
        if often:
            raise Sick(said, f"look for what {often[0]} meets, journalctl -eu {often[0]}; journalctl -eu airstrip-heal")
        return said

    def health(self) -> str:
        if found := self.sick():
            raise Sick(f"no heartbeat from {', '.join(found)}", "sudo systemctl restart airflow.target")
        return "every component has a fresh heartbeat"

    def sick(self) -> list[str]:
        """Return the components without a heartbeat."""
        return sick(self.settings.components, ANSWER_SECONDS)

    def tokens(self) -> str:
        try:
            answer_to_a_task(ANSWER_SECONDS)
        except urllib.error.HTTPError as error:
            raise Sick(
                f"the API server answers {error.code} to a task's token", "sudo airflow-restart api-server scheduler"
            ) from None
        return "the API server accepts a task's token"

    def database(self) -> str:
        state = json.loads(self.output(*OWN, f"{PROGRAMS}/database.py", "state", self.settings.administrator))
        if state["migration_needed"]:
            raise Sick("the schema is not this Airflow's", "sudo airflow db migrate, or run playbooks/site.yml")
        return f"at the revision that this Airflow needs{self.growth()}"

    def growth(self) -> str:
        """Return how the database grows, as far as that was noted."""
        if not Path(SIZES).exists():
            return ""
        weeks = [line.split(",") for line in Path(SIZES).read_text().split()][-13:]
        (first, before, _), (last, now, dead) = weeks[0], weeks[-1]
        return f"; {now} MB on {last}, {int(now) - int(before)} more than on {first}, {dead} % of its rows dead"

    def dags(self) -> str:
        errors = self.sql("SELECT filename || ': ' || split_part(stacktrace, E'\\n', -2) FROM import_error")
        if errors:
            raise Sick(
                f"import errors: {errors}",
                "correct the file and run playbooks/update.yml, or go back: playbooks/rollback.yml",
            )
        if late := self.sql(LATE_RUNS):
            raise Sick(
                f"no run was created of {late}", "journalctl -eu 'airflow-scheduler@*'; sudo airflow-restart scheduler"
            )
        return "no import errors, every run that is due was created"

    def pipelines(self) -> str:
        """Check that the DAGs that must run are there, active, read and on time."""
        wrong, fixes = problems(self.sql(PIPELINES), self.settings.dags)
        if wrong:
            raise Sick(", ".join(wrong), "; ".join(fixes))
        return f"{', '.join(self.settings.dags)} are on time" if self.settings.dags else "no DAG is in watch_dags"

    def disk(self) -> str:
        usage = {path: shutil.disk_usage(path) for path in ("/", "/var/log/airflow", "/var/lib/postgresql")}
        full = [f"{path} {100 * u.used // u.total} %" for path, u in usage.items() if u.free < 0.1 * u.total]
        if full:
            raise Sick(f"nearly full: {', '.join(full)}", "lower airflow_log_retention_days, or enlarge the volume")
        return f"{min(u.free for u in usage.values()) // 2**30} GiB free"

    def trends(self) -> str:
        """Tell where the figures of the last week lead."""
        days, slower = full_in_days(), slower_since()
        if days is not None and days < FULL_DAYS:
            raise Sick(
                f"the disk is full in {days:.0f} days, as it fills now", "sudo du -xh --max-depth=2 / | sort -h | tail"
            )
        if slower:
            raise Sick(
                f"DAG files take {slower[0]:.1f} times as long to read since release {slower[1]}",
                "move what a file does when it is imported into its tasks; airstrip release history",
            )
        return f"the disk is full in {days:.0f} days, as it fills now" if days else "the disk does not fill"

    def certificate(self) -> str:
        path = re.search(r"ssl_certificate (\S+);", Path("/etc/nginx/snippets/airflow-tls.conf").read_text())[1]
        end = self.output("openssl", "x509", "-noout", "-enddate", "-in", path).partition("=")[2]
        days = (calendar.timegm(time.strptime(end, "%b %d %H:%M:%S %Y %Z")) - time.time()) / 86400
        if days < self.settings.certificate_days:
            raise Sick(
                f"{path} ends in {days:.0f} days",
                "run site.yml --tags nginx, with a new one if you supply it; of ACME: sudo certbot renew",
            )
        return f"good for {days:.0f} days"

    def versions(self) -> str:
        running = json.loads(answer("/api/v2/version", ANSWER_SECONDS))["version"]
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

    def spending(self) -> str:
        said = json.loads(self.output(*OWN, f"{PROGRAMS}/spending.py"))
        if not said["bucket"]:
            return "x_bucket is not among airflow_variables"
        if "month" not in said:
            return "X has no bill of this month yet"
        users = ", ".join(f"{name} {usd}" for name, usd in list(said["users"].items())[:5])
        return (
            f"X charged {said['month']} USD this month as of {said['as_of']}, {said['today']} of it today; "
            f"most for {users}"
        )

    def history(self) -> str:
        """Look whether a segment of the history waits for the bucket."""
        if not self.settings.backup:
            return "off, backup_bucket is empty"
        age = int(self.sql(WAITING))
        if age > WAITING_SECONDS:
            raise Sick(
                f"the history has not reached the bucket for {age} s", "sudo -u postgres pgbackrest --stanza=main check"
            )
        return "reaches the bucket"

    def backup(self) -> str:
        if not self.settings.backup:
            return "off, backup_bucket is empty"
        (stanza,) = json.loads(
            self.output("runuser", "-u", "postgres", "--", "pgbackrest", "--stanza=main", "info", "--output=json")
        )
        made = [each["timestamp"]["stop"] for each in stanza.get("backup", [])]
        hours = (time.time() - max(made, default=0)) / 3600
        if hours > 26:
            raise Sick("no backup since yesterday", "journalctl -u 'airstrip-backup@*'; run playbooks/backup.yml")
        return f"the newest of {len(made)} is {hours:.0f} h old"

    def drill(self) -> str:
        if not self.settings.backup:
            return "off, backup_bucket is empty"
        now = "sudo systemctl start airstrip-drill"
        if not Path(TRIAL).exists():
            return f"no backup was restored on trial yet, {now}"
        last = json.loads(Path(TRIAL).read_text())
        days = (time.time() - last["at"]) / 86400
        if not last["ok"]:
            raise Sick(f"the newest backup does not restore, {last['said']}", f"journalctl -u airstrip-drill; {now}")
        if days > 8:
            raise Sick(f"the last trial was {days:.0f} days ago", f"systemctl status airstrip-drill.timer; {now}")
        return f"restored {days:.0f} days ago in {last['seconds']} s, {last['said']}"


CHECKS = (
    *("units", "jobs", "healing", "health", "tokens", "database", "dags", "pipelines", "disk", "trends", "certificate"),
    *("versions", "secrets", "libraries", "reboot", "spending", "history", "backup", "drill"),
)
