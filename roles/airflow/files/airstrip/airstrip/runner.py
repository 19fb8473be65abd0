"""Runs the tasks of this host, beside the scheduler, so that they outlive it.

`python -m airstrip.runner` listens on a Unix socket that only the user of the scheduler may use. Both sides send
objects of JSON, a line each. It greets with what it has: `{"runner", "draining", "workloads"}`. It is asked
`{"run": id, "digest", "key", "workload"}` and tells everybody `{"id", "state": "running", "key"}`, and at the end
`{"id", "state", "key", "error"}` with the state `done`, `failed` or `lost`, which it keeps until somebody says
`{"noted": id}`. `{"end": id}` ends a workload.

It holds no secret of Airflow's own and imports nothing of it: for each virtualenv a warm parent does (airstrip.warm),
which forks for each workload.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import psutil

from airstrip import warm
from airstrip.release import folder as releases
from airstrip.systemd import machine_stops, notify
from airstrip.workload import Parent, Workload, log_line, memory

WATCH_SECONDS = 0.5
# A parent of another virtualenv than the runner's own goes when nobody has needed it for so long.
IDLE_SECONDS = 600
KEPT_RESULTS = 1000
# EC2 ends a machine that takes minutes to stop.
SHUTDOWN_SECONDS = 30
# A task that cannot write its log fails: with less room nothing more is taken, and what runs has the rest.
ROOM_BYTES = 64 * 2**20
# A workload is one line, and carries what a trigger has sent.
LINE_BYTES = 64 * 2**20


class Runner:
    """Keeps the list of what runs; `settings` are the arguments of the command."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings = settings
        self.name = uuid.uuid4().hex
        self.workloads: dict[str, Workload] = {}
        self.parents: dict[Path, Parent] = {}
        self.clients: set[asyncio.StreamWriter] = set()
        self.draining = self.full = False
        self.deadline = float("inf")
        self.starting = asyncio.Lock()
        self.user = pwd.getpwnam(settings.client).pw_uid

    async def serve(self) -> None:
        """Serve until asked to stop, and then until the last workload has ended."""
        warm.adopt_orphans()
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        # systemd's own deadline holds where it stops the unit; where the next of the pair takes over, ours.
        loop.add_signal_handler(signal.SIGTERM, lambda: self.stop(stop, SHUTDOWN_SECONDS if machine_stops() else None))
        loop.add_signal_handler(signal.SIGUSR1, self.stop, stop, self.settings.stop_seconds)
        await self.parent(Path(sys.prefix).resolve())
        self.settings.socket.unlink(missing_ok=True)
        await asyncio.start_unix_server(self.client, self.settings.socket, limit=LINE_BYTES)
        watch = asyncio.create_task(self.watch())
        notify("READY=1\nSTATUS=Runs tasks")
        await stop.wait()
        await self.drain()
        self.settings.socket.unlink(missing_ok=True)
        watch.cancel()
        for writer in self.clients:
            writer.close()
        await asyncio.sleep(0)

    def stop(self, event: asyncio.Event, seconds: float | None) -> None:
        """Take nothing more, and end after the last task, or after so many seconds."""
        if seconds is not None:
            self.deadline = min(self.deadline, asyncio.get_running_loop().time() + seconds)
        self.draining = True
        self.tell({"draining": True})
        notify("STOPPING=1")
        event.set()

    async def drain(self) -> None:
        """Wait until nothing runs, and tell systemd how many still do."""
        while running := self.running():
            notify(f"STATUS=Stops when its tasks have finished: {len(running)} still run")
            if asyncio.get_running_loop().time() > self.deadline:
                return
            await asyncio.sleep(0.2)
        # The last results are on their way.
        await asyncio.sleep(0.5)

    def running(self) -> list[Workload]:
        return [workload for workload in self.workloads.values() if workload.state == "running"]

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one scheduler."""
        peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", peer)[1] not in (self.user, 0):
            writer.close()
            return
        self.clients.add(writer)
        workloads = [workload.told() for workload in self.workloads.values()]
        send(writer, {"runner": self.name, "draining": self.draining or self.full, "workloads": workloads})
        try:
            while line := await reader.readline():
                await self.answer(writer, json.loads(line))
        except (ConnectionError, ValueError) as error:
            print(f"a scheduler's connection ended: {error}", file=sys.stderr)
        finally:
            self.clients.discard(writer)
            writer.close()

    async def answer(self, writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
        if "run" in message:
            known = self.workloads.get(message["run"])
            if known and (known.state == "running" or known.digest == message["digest"]):
                # Sent again by one that did not hear the answer.
                send(writer, known.told())
            else:
                await self.run(message)
        elif "noted" in message:
            known = self.workloads.get(message["noted"])
            if known and known.state != "running":
                del self.workloads[known.id]
        elif "end" in message:
            known = self.workloads.get(message["end"])
            if known and known.process:
                self.end(known, "ended, as it was asked for")

    async def run(self, message: dict[str, Any]) -> None:
        """Give a workload to the warm parent of its release's virtualenv."""
        content = message["workload"]
        virtualenv = self.place(content)
        release = (content.get("bundle_info") or {}).get("version")
        plugins = str(releases.path(self.settings.releases, release) / "plugins") if release else None
        parent = await self.parent(virtualenv)
        workload = Workload(message["run"], message["digest"], message["key"], content.get("log_path"), parent)
        self.workloads[workload.id] = workload
        assert parent.process.stdin
        parent.process.stdin.write(
            (json.dumps({"id": workload.id, "workload": content, "plugins": plugins}) + "\n").encode()
        )
        self.tell(workload.told())

    def place(self, content: dict[str, Any]) -> Path:
        """Set the file that the DAG has in its release; return the release's virtualenv."""
        default = Path(sys.prefix).resolve()
        release = (content.get("bundle_info") or {}).get("version")
        if content.get("type") != "ExecuteTask" or not release:
            return default
        try:
            manifest = releases.manifest(self.settings.releases, release)
        except FileNotFoundError:
            # The bundle says so in the task's log.
            return default
        content["dag_rel_path"] = manifest["dags"].get(content["ti"]["dag_id"], content["dag_rel_path"])
        virtualenv = Path(manifest["virtualenv"])
        return virtualenv if (virtualenv / "bin" / "python").exists() else default

    async def parent(self, virtualenv: Path) -> Parent:
        """Return the virtualenv's warm parent, started if there is none."""
        async with self.starting:
            parent = self.parents.get(virtualenv) or await self.start(virtualenv)
        parent.used = asyncio.get_running_loop().time()
        return parent

    async def start(self, virtualenv: Path) -> Parent:
        """Start the warm parent of a virtualenv."""
        # The link in the unit's own path leads elsewhere once other packages go live.
        environment = {**os.environ, "PATH": f"{virtualenv}/bin:{os.environ['PATH']}"}
        # It is told the file: another virtualenv may have an older package of ours, or none.
        command = [virtualenv / "bin" / "python", "-P", warm.__file__]
        command += [str(self.settings.processes), *self.settings.writable]
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=LINE_BYTES
        )
        parent = self.parents[virtualenv] = Parent(process)
        parent.follower = asyncio.create_task(self.follow(virtualenv, parent))
        return parent

    async def follow(self, virtualenv: Path, parent: Parent) -> None:
        """Note what a warm parent says until it ends."""
        assert parent.process.stdout
        while line := await parent.process.stdout.readline():
            said = json.loads(line)
            workload = self.workloads[said["id"]]
            if "process" in said:
                workload.process = said["process"]
            else:
                self.ended(workload, said["state"], said.get("error"))
        await parent.process.wait()
        self.parents.pop(virtualenv, None)
        for workload in self.running():
            if workload.parent is parent:
                if workload.process and psutil.pid_exists(workload.process):
                    warm.end([psutil.Process(workload.process)])
                self.ended(workload, "lost", "its parent process ended")
        if virtualenv == Path(sys.prefix).resolve() and not self.draining:
            await self.parent(virtualenv)

    def ended(self, workload: Workload, state: str, error: str | None) -> None:
        workload.state, workload.error = state, workload.reason or error
        self.tell(workload.told())
        results = [known for known in self.workloads.values() if known.state != "running"]
        for known in results[:-KEPT_RESULTS]:
            del self.workloads[known.id]

    def tell(self, message: dict[str, Any]) -> None:
        for writer in self.clients:
            send(writer, message)

    async def watch(self) -> None:
        """End what holds more than its bounds, and parents that nobody needs."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self.look_for_room()
            for workload in self.running():
                with contextlib.suppress(psutil.NoSuchProcess):
                    self.bound(workload)
            now = asyncio.get_running_loop().time()
            needed = {id(workload.parent) for workload in self.running()}
            for virtualenv, parent in self.parents.items():
                idle = id(parent) not in needed and now - parent.used > IDLE_SECONDS
                if idle and virtualenv != Path(sys.prefix).resolve() and parent.process.stdin:
                    parent.process.stdin.close()

    def look_for_room(self) -> None:
        """Tell the schedulers when the disk of the logs is full, and when it is no more."""
        full = shutil.disk_usage(self.settings.logs).free < ROOM_BYTES
        if full != self.full and not self.draining:
            self.full = full
            self.tell({"draining": full})
            notify(f"STATUS={'Takes nothing: the disk of the logs is full' if full else 'Runs tasks'}")

    def bound(self, workload: Workload) -> None:
        if not workload.process or workload.reason:
            return
        processes = psutil.Process(workload.process).children(recursive=True)
        if len(processes) > self.settings.processes:
            most = f"airflow_task_processes lets it have {self.settings.processes}"
            self.end(workload, f"the task had {len(processes)} processes, and {most}")
            return
        held = sum(map(memory, processes)) // 2**20
        if held > self.settings.memory:
            most = f"airflow_task_memory lets it have {self.settings.memory}"
            self.end(workload, f"the task held {held} MB of memory, and {most}")

    def end(self, workload: Workload, reason: str) -> None:
        """End a task's processes: its supervisor then says so to Airflow."""
        workload.reason = reason
        if workload.log:
            with contextlib.suppress(OSError):
                log_line(self.settings.logs / workload.log, f"Ended by the runner: {reason}")
        assert workload.process
        warm.end_descendants(workload.process)


def send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write((json.dumps(message) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(prog="airstrip.runner")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--client", required=True, help="user of the scheduler")
    parser.add_argument("--releases", type=Path, required=True)
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--memory", type=int, required=True, help="MB that a task and its processes may hold")
    parser.add_argument("--processes", type=int, required=True, help="how many a task may have")
    parser.add_argument("--stop-seconds", type=float, required=True, help="how long tasks may still run after SIGUSR1")
    parser.add_argument("--writable", nargs="*", default=[], help="paths that tasks may write to beside their own")
    asyncio.run(Runner(parser.parse_args()).serve())


if __name__ == "__main__":
    main()
