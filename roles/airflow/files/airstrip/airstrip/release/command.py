"""`airstrip release STEP`: a JSON object on standard output, and where it was refused a sentence on standard error."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from airstrip.release.engine import Engine
from airstrip.release.folder import ROOT, Releases
from airstrip.release.host import Host
from airstrip.release.lock import Busy, Lock, identity
from airstrip.release.push import push
from airstrip.release.run import Answer
from airstrip.release.tree import Refused

BOUNDS = {
    "import_seconds": "that a DAG file may take",
    "import_mb": "that a DAG file may take",
    "live_seconds": "within which Airflow must have all DAGs",
    "keep": "so many releases",
    "keep_mb": "megabytes of older releases to keep",
    "max_mb": "that a release may have",
}
COMPONENTS = "api-server,runner,scheduler,dag-processor,triggerer"


def stage(engine: Engine, given: argparse.Namespace) -> Answer:
    """Lay out the archive on standard input, or in a file, and examine it."""
    with open(given.archive, "rb") if given.archive else sys.stdin.buffer as archive:
        answer = engine.stage(archive, given.virtualenv or engine.host.virtualenv(), given.release, given.force)
    return engine.through(answer) if given.through else answer


def choose(engine: Engine, given: argparse.Namespace) -> Answer:
    """Choose an older release."""
    answer = engine.choose(given.release)
    return engine.through(answer) if given.through else answer


def push_and_tell(engine: Engine, given: argparse.Namespace) -> Answer:
    """Do all steps, and say in words how it went."""
    answer = push(engine, sys.stdin.buffer)
    print("\n".join([answer["summary"], *answer.get("said", [])]), file=sys.stderr)
    return answer


def history(engine: Engine, given: argparse.Namespace) -> Answer:
    """Say what was done, and which releases one can go back to."""
    releases = engine.releases
    state = {"releases": releases.all(), "live": releases.live(), "before": releases.before()}
    return {"changed": False, "history": releases.history(), **state}


STEPS: dict[str, tuple[str, Callable[[Engine, argparse.Namespace], Answer]]] = {
    "lock": ("keep other runs away", lambda engine, given: engine.take()),
    "unlock": ("unlock the host", lambda engine, given: engine.give_back()),
    "stage": ("lay out an archive from standard input, compare and examine it", stage),
    "gate": ("examine what was staged", lambda engine, given: engine.gate(given.release)),
    "choose": ("choose an older release instead", choose),
    "switch": ("make it live, or put the one before back", lambda engine, given: engine.switch(given.release)),
    "push": ("do all steps with an archive from standard input", push_and_tell),
    "finish": ("prune and unlock", lambda engine, given: engine.finish(given.release)),
    "revert": ("put back what was live before this run", lambda engine, given: engine.revert(given.release)),
    "history": ("say what was done", history),
    "needed": ("say which releases unfinished runs need", lambda engine, given: {"needed": engine.host.needed()}),
}


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return what was given."""
    parser = argparse.ArgumentParser(prog="airstrip release", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    for name, (what, _) in STEPS.items():
        step = steps.add_parser(name, help=what, description=what)
        step.add_argument("release", nargs="?", default="", help="its name")
        step.add_argument("--root", type=Path, default=ROOT, help="the folder of the releases")
        step.add_argument("--archive", help="a file instead of standard input")
        step.add_argument("--virtualenv", help="the packages that it runs with; default: the live ones")
        step.add_argument("--components", default=COMPONENTS, help="of Airflow, on this host")
        step.add_argument("--user", help="whom the history names; default: who runs this")
        step.add_argument("--owner", type=json.loads, help="whose run this is, as JSON")
        step.add_argument("--action", default="update", help="what the history calls it")
        step.add_argument("--force", action="store_true", help="make a release of what is live already")
        step.add_argument("--through", action="store_true", help="switch and finish too")
        step.add_argument("--break-lock", action="store_true", help="go on although another run has the host")
        step.add_argument("--check", action="store_true", help="change nothing")
        step.add_argument("--diff", action="store_true", help="say what each file would become")
        for bound, what in BOUNDS.items():
            step.add_argument(f"--{bound.replace('_', '-')}", type=int, default=argparse.SUPPRESS, help=what)
    return parser.parse_args(arguments)


def owner(user: str | None) -> dict[str, Any]:
    """Return who runs this by hand, for as long as the shell lives; a push is a run by itself."""
    mine = os.getpid() if user else os.getppid()
    return identity(user or os.environ.get("SUDO_USER") or getpass.getuser(), mine)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one step; return the exit code."""
    given = parsed(arguments)
    os.umask(0o022)
    options = {name: getattr(given, name) for name in BOUNDS if name in given}
    engine = Engine(
        Releases(given.root),
        Host(given.components.split(",") if given.components else []),
        Lock(given.root / "lock", given.owner or owner(given.user), given.break_lock),
        at=given.release,
        action=given.action,
        check=given.check,
        diff=given.diff,
        **options,
    )
    try:
        answer, code = STEPS[given.step][1](engine, given), 0
    except Busy as error:
        answer, code = {"refused": str(error), "holder": getattr(error, "holder", None)}, 1
    except Refused as error:
        engine.refused(str(error))
        answer, code = {"refused": str(error)}, 1
    print(json.dumps(answer))
    if code:
        print(answer["refused"], file=sys.stderr)
    return code
