#!/usr/bin/python
"""Bring releases of dags/ and etl/ to a host and make one of them live."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Bring releases of DAGs to a host and make one of them live
description:
  - One step of an update or a rollback. A lock spans the steps, and a history notes what became of them.
options:
  step:
    description:
      - C(pack) reads the code on the controller; C(stage) lays it out on the host; C(gate) examines it there;
        C(choose) picks an older release instead; C(switch) makes it live, and puts the one before back if Airflow
        does not take it; C(finish) prunes and unlocks; C(revert) goes back to what was live before and unlocks;
        C(lock) and C(unlock) keep other runs away from a host while more than its releases changes.
    type: str
    choices: [pack, stage, gate, choose, switch, finish, revert, lock, unlock]
    required: true
  source:
    description: Folder on the controller with dags/ and etl/, for C(pack).
    type: path
  pack:
    description: What C(pack) returned, for C(stage).
    type: dict
  root:
    description: Folder of the releases on the host.
    type: path
  release:
    description: Name of the release; for C(choose) empty means the one before the live one.
    type: str
  action:
    description: What the history calls it, C(update), C(rollback) or C(site).
    type: str
    default: update
  force:
    description: Whether C(stage) makes a release of code that is live already, so that every host has the same.
    type: bool
    default: false
  virtualenv:
    description: Virtualenv that the release runs in, for C(stage) and C(gate).
    type: path
  components:
    description: Parts of Airflow on this host.
    type: list
    elements: str
  import_seconds:
    description: How long a DAG file may take to import.
    type: int
  live_seconds:
    description: How long Airflow may take to have the DAGs of a release.
    type: int
  keep:
    description: How many releases stay.
    type: int
  keep_mb:
    description: MB that those before the live one may take, with the virtualenvs that they alone need.
    type: int
  break_lock:
    description: Whether to go on although somebody else seems to be at it.
    type: bool
    default: false
author: Airstrip
"""

EXAMPLES = r"""
- name: Make it live
  release:
    step: switch
    root: /srv/airflow
    release: 20261101T120000Z-0123456789ab
    components: [dag-processor]
    live_seconds: 60
"""

RETURN = r"""
release:
  description: Name of the release.
  type: str
  returned: always
ready:
  description: Whether the release has been examined; if not, its virtualenv must be made first.
  type: bool
  returned: for C(stage)
seconds:
  description: What each part took.
  type: dict
  returned: for C(stage), C(gate) and C(switch)
summary:
  description: What the release changes, or what became of it.
  type: str
  returned: always
said:
  description: What there is to know besides, a line each.
  type: list
  returned: for C(choose) and C(switch)
"""

import base64
import io
import json
import os
import tarfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.releases import (
    COMPLETE,
    LIVE,
    MANIFEST,
    WITHDRAWN,
    Held,
    Refused,
    Releases,
    difference,
    link,
    listed,
)

VIRTUALENV = Path("/opt/airflow/venv")
RESTART = "/usr/local/bin/airflow-restart"
PARSER = "dag-processor"
HEALTH = "http://127.0.0.1:8080/api/v2/monitor/health"
HEALTH_SECONDS = 60


class Step:
    """One method a step; each returns what the module returns, or raises Refused."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module, self.given = module, module.params
        self.owner = self.given["owner"]
        self.releases = Releases(self.given["root"])
        self.archive = base64.b64decode(self.given["archive"])
        self.seconds: dict[str, float] = {}
        self.said: list[str] = []

    @contextmanager
    def timed(self, part: str):
        start = time.monotonic()
        yield
        self.seconds[part] = round(time.monotonic() - start, 2)

    @contextmanager
    def working(self):
        step, release = self.given["action"], self.name
        with self.releases.working(self.owner, step, release, self.given["break_lock"]) as cut_off:
            if cut_off:
                self.releases.note(cut_off, cut_off["step"], cut_off["release"], "cut off")
            yield

    @property
    def name(self) -> str:
        return self.given["release"] or (self.given["pack"] or {}).get("release", "")

    def run(self, *command: str) -> str:
        code, out, err = self.module.run_command(list(command))
        if code:
            raise Refused(f"{' '.join(command)} said: {(err or out).strip()}")
        return out

    def ask(self, *arguments: str) -> list[str]:
        """Ask the database."""
        environment = {"CREDENTIALS_DIRECTORY": "/etc/airflow/secrets"}
        command = [f"{VIRTUALENV}/bin/python", "-I", "-m", "airstrip.live", *arguments]
        code, out, err = self.module.run_command(command, environ_update=environment)
        if code:
            raise Refused(f"The database does not say which DAGs are live: {err.strip()[-500:]}")
        return [line for line in out.splitlines() if line]

    def lock(self) -> dict:
        if self.module.check_mode:
            self.releases.look_at_the_lock(self.owner, self.given["break_lock"])
            return {"changed": False}
        with self.working():
            return {"changed": False}

    def unlock(self) -> dict:
        self.releases.unlock(self.owner)
        return {"changed": False}

    def stage(self) -> dict:
        virtualenv = self.given["virtualenv"]
        # A virtualenv is named by the hash of its lock file.
        manifest = {**self.given["pack"]["manifest"], "virtualenv": virtualenv, "lock": os.path.basename(virtualenv)}
        if self.module.check_mode:
            self.releases.look_at_the_lock(self.owner, self.given["break_lock"])
            return self.compared(manifest)
        with self.timed("stage"), self.working():
            answer = self.compared(manifest)
            if not answer["changed"] and not self.given["force"]:
                live = self.releases.live()
                if self.releases.switching():
                    # A run was cut off before Airflow was seen to have all of it: go the last steps once more.
                    return {**answer, "changed": True, "release": live, "ready": True, "seconds": self.seconds}
                self.releases.unlock(self.owner)
                return {**answer, "release": live}
            try:
                self.releases.unpack(self.name, self.archive, manifest)
            except OSError as error:
                size = len(self.archive) // 2**10
                raise Refused(f"The release ({size} KiB) cannot be written to {self.releases.root}: {error}") from error
        answer |= {"changed": True, "ready": False, "seconds": self.seconds}
        if (Path(virtualenv) / COMPLETE).exists():
            gated = self.gate()
            answer |= {**gated, "ready": True, "summary": f"{answer['summary']}; {gated['summary']}"}
        return answer

    def compared(self, manifest: dict) -> dict:
        """What the release would change."""
        live, virtualenv = self.releases.live(), manifest["virtualenv"]
        changes = difference(self.releases.files(live), manifest["files"])
        moved = bool(live) and {self.releases.manifest(live)["virtualenv"], os.path.realpath(VIRTUALENV)} != {
            virtualenv
        }
        changed = any(changes.values()) or moved or not live
        withdrawn = self.releases.withdrawn(manifest)
        if changed and withdrawn:
            raise Refused(
                f"This is {withdrawn}, from which somebody went back. Correct it; or to have it live again: "
                f"ansible-playbook playbooks/rollback.yml -e release={withdrawn}"
            )
        parts = [listed(changes, "file")] + ["other packages"] * moved
        return {
            "changed": changed,
            "release": self.name,
            "ready": False,
            "summary": ", ".join(parts) if live else f"the first release, {len(manifest['files'])} files",
            "diff": {"prepared": self.diff(live, changes) if changed else ""},
        }

    def diff(self, live: str | None, changes: dict) -> str:
        with tarfile.open(fileobj=io.BytesIO(self.archive)) as tar:

            def new(name: str) -> bytes:
                return b"" if name in changes["removed"] else tar.extractfile(name).read()

            return self.releases.diff(live, changes, new)

    def gate(self) -> dict:
        """Examine the staged release as the DAG processor's user, in its sandbox, with its variables."""
        folder = self.releases.staging(self.name)
        with self.timed("gate"), self.working():
            unit = [
                "systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--unit=airflow-dag-processor@gate.service",
                "--property=RuntimeMaxSec=900", "--setenv=_AIRFLOW_PROCESS_CONTEXT=server",
                f"--setenv=AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT={self.given['import_seconds']}",
            ]  # fmt: skip
            python = f"{self.given['virtualenv']}/bin/python"
            code, out, err = self.module.run_command([*unit, python, "-m", "airstrip.gate", str(folder)])
            try:
                answer = json.loads(out.strip().splitlines()[-1])
            except (ValueError, IndexError):
                answer = {"problems": [f"the examination itself failed with {code}: {err.strip()[-2000:]}"]}
            live = self.releases.live()
            if answer["problems"]:
                stays = f"Nothing was changed: {live} stays live." if live else "No release is live yet."
                raise Refused("\n".join([*answer["problems"], stays]))
            path = folder / MANIFEST
            manifest = {**json.loads(path.read_text()), "dags": answer["dags"]}
            path.write_text(json.dumps(manifest, indent=1))
            before = self.releases.manifest(live) if live else {"dags": {}, "files": {}}
            self.releases.publish(self.name)
        summary = listed(difference(dag_digests(before), dag_digests(manifest)), "DAG")
        return {"changed": True, "release": self.name, "summary": summary, "seconds": self.seconds}

    def choose(self) -> dict:
        live, known = self.releases.live(), self.releases.all()
        release = self.given["release"] or self.releases.before(live) or ""
        if release not in known or not live:
            what = f"There is no release {release}" if release else "No release was live before this one"
            raise Refused(f"{what}; there are: {', '.join(known) or 'none'}. Give one: -e release=ID")
        before, after = self.releases.manifest(live), self.releases.manifest(release)
        changes = difference(self.releases.files(live), self.releases.files(release))
        folder = self.releases.folder(release)
        answer = {
            "changed": release != live or bool(self.releases.switching()),
            "release": release,
            "summary": f"{live} to {release}: {listed(difference(dag_digests(before), dag_digests(after)), 'DAG')}",
            "said": self.ask("stranded", str(folder)),
            "diff": {"prepared": self.releases.diff(live, changes, lambda name: read(folder / name))},
        }
        self.given["release"] = release
        if self.module.check_mode:
            self.releases.look_at_the_lock(self.owner, self.given["break_lock"])
            return answer
        with self.working():
            if not answer["changed"]:
                self.releases.unlock(self.owner)
        return answer

    def switch(self) -> dict:
        with self.working():
            before = self.releases.live()
            self.releases.begin(self.name, before)
            try:
                self.go_live(self.name)
            except Refused as error:
                raise Refused(f"{error}\n{self.put_back(before)}") from error
            if before and self.given["action"] == "rollback" and self.name < before:
                self.releases.mark(before, WITHDRAWN)
            self.releases.mark(self.name, LIVE)
            outcome = f"live in {sum(self.seconds.values()):.1f} s, was {before}"
            self.releases.note(self.owner, self.given["action"], self.name, outcome)
        summary = f"{self.name} is live"
        return {"changed": True, "release": self.name, "summary": summary, "seconds": self.seconds, "said": self.said}

    def put_back(self, before: str | None) -> str:
        """Make the release before live again, and say how that went."""
        if not before or before == self.name:
            return "There is no other release to put back."
        try:
            self.go_live(before)
        except Refused as error:
            return f"{before} could not be put back either: {error}"
        self.releases.end()
        return f"{before} is live again."

    def go_live(self, release: str) -> None:
        """Make a release live, with its virtualenv, and wait until Airflow has all of it."""
        components, virtualenv = self.given["components"], self.releases.manifest(release)["virtualenv"]
        with self.timed("switch"):
            if os.path.realpath(VIRTUALENV) != virtualenv:
                if not (Path(virtualenv) / COMPLETE).exists():
                    raise Refused(f"{virtualenv} is gone: run playbooks/update.yml from the commit of {release}")
                link(VIRTUALENV, virtualenv)
            stale = [name for name in components if self.started(name) <= int(os.lstat(VIRTUALENV).st_mtime)]
            if PARSER in stale:
                # It must not read the new release with the old packages.
                self.run("systemctl", "stop", f"airflow-{PARSER}.service")
            others = [name for name in stale if name != PARSER]
            if others:
                self.said += self.run(RESTART, *others).splitlines()
            self.releases.switch(release)
            if PARSER in components:
                self.run("systemctl", "start", f"airflow-{PARSER}.service")
            if stale and "api-server" in components:
                self.wait_until_healthy()
        if PARSER not in components:
            return
        with self.timed("live"):
            seconds = str(self.given["live_seconds"])
            left = self.ask("wait", str(self.releases.folder(release)), seconds)
        if left:
            raise Refused(
                f"Airflow has not taken these DAGs within {seconds} s: {', '.join(left[:8])}. Look at: "
                "journalctl -eu airflow-dag-processor; a slower host may need a larger release_live_seconds"
            )

    def started(self, component: str) -> int:
        """When the component was started, in seconds since 1970; 0 if it does not run."""
        names = [f"airflow-{component}.service", *(f"airflow-{component}@{name}.service" for name in "ab")]
        show = ["systemctl", "show", "--timestamp=unix", "--property=ActiveState,InactiveExitTimestamp"]
        units = [dict(row.split("=", 1) for row in unit.splitlines()) for unit in self.run(*show, *names).split("\n\n")]
        times = [unit["InactiveExitTimestamp"].lstrip("@") for unit in units if unit.get("ActiveState") == "active"]
        return max((int(moment or 0) for moment in times), default=0)

    def wait_until_healthy(self) -> None:
        """Wait until each restarted component says so."""
        deadline = time.monotonic() + HEALTH_SECONDS
        while True:
            sick = ["api_server"]
            with suppress(OSError, ValueError), urllib.request.urlopen(HEALTH, timeout=5) as answer:
                wanted = {name.replace("-", "_") for name in self.given["components"]} - {"api_server", "runner"}
                states = json.load(answer)
                sick = [name for name in wanted if (states.get(name) or {}).get("status") != "healthy"]
            if not sick:
                return
            if time.monotonic() > deadline:
                raise Refused(
                    f"Not healthy with these packages: {', '.join(sick)}. Look at: journalctl -e -u 'airflow-*'"
                )
            time.sleep(0.5)

    def finish(self) -> dict:
        with self.working():
            gone = self.releases.prune(self.given["keep"], self.given["keep_mb"] * 2**20, set(self.ask("needed")))
            self.releases.prune_virtualenvs(VIRTUALENV)
            self.releases.end()
            self.releases.unlock(self.owner)
        return {"changed": bool(gone), "release": self.name, "summary": f"pruned {len(gone)} releases"}

    def revert(self) -> dict:
        """Put back what was live before this run, where this run got so far; leave alone what somebody else is at."""
        said = "nothing to put back"
        with suppress(Held), self.working():
            switching = self.releases.switching()
            back = switching and switching["release"] == self.releases.live() == self.name
            if back:
                said = self.put_back(switching["before"])
                self.releases.note(self.owner, "revert", self.name, f"another host did not take it; {said}")
            self.releases.unlock(self.owner)
            return {"changed": bool(back), "release": self.name, "summary": said}
        return {"changed": False, "release": self.name, "summary": said}


def read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def dag_digests(manifest: dict) -> dict[str, str]:
    """Each DAG with the digest of its file."""
    return {dag: manifest["files"][file] for dag, file in manifest["dags"].items()}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "owner": {"type": "dict", "required": True},
            "pack": {"type": "dict"},
            # Not a secret, but the answer would hold all of it again.
            "archive": {"type": "str", "default": "", "no_log": True},
            "force": {"type": "bool", "default": False},
            "release": {"type": "str", "default": ""},
            "action": {"type": "str", "default": "update"},
            "virtualenv": {"type": "path"},
            "components": {"type": "list", "elements": "str", "default": []},
            "import_seconds": {"type": "int"},
            "live_seconds": {"type": "int"},
            "keep": {"type": "int"},
            "keep_mb": {"type": "int"},
            "break_lock": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    step = Step(module)
    try:
        module.exit_json(**getattr(step, module.params["step"])())
    except Held as error:
        module.fail_json(msg=str(error), holder=error.holder)
    except Refused as error:
        if not module.check_mode:
            step.releases.note(step.owner, module.params["action"], step.name, f"refused: {error}")
            step.releases.unlock(step.owner)
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
