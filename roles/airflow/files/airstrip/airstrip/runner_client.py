"""The connection to a runner (airstrip.runner), as a scheduler has it."""

from __future__ import annotations

import json
import select
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any

ANSWER_SECONDS = 10


class Runner:
    """The connection to a runner; its methods raise OSError once it is broken."""

    def __init__(self, path: Path) -> None:
        self.messages: deque[dict[str, Any]] = deque()
        self._rest = b""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.receive(ANSWER_SECONDS)
        if not self.messages:
            raise TimeoutError("the runner does not greet")
        greeting = self.messages.popleft()
        self.draining = greeting["draining"]
        self.messages.extendleft(reversed(greeting["workloads"]))
        self.known = {workload["id"] for workload in greeting["workloads"]}

    def send(self, message: dict[str, Any]) -> None:
        self.socket.settimeout(ANSWER_SECONDS)
        self.socket.sendall((json.dumps(message) + "\n").encode())

    def receive(self, seconds: float) -> None:
        """Wait for messages, so long at most, and put them to `messages`."""
        complete: list[bytes] = []
        deadline = time.monotonic() + seconds
        while not complete:
            left = deadline - time.monotonic()
            if not select.select([self.socket], [], [], max(0, left))[0]:
                return
            read = self.socket.recv(2**20)
            if not read:
                raise ConnectionResetError("the runner ended")
            *complete, self._rest = (self._rest + read).split(b"\n")
        self.messages.extend(map(json.loads, complete))

    def run(self, message: dict[str, Any]) -> None:
        """Have a workload run; return when the runner has it."""
        self.send(message)
        deadline = time.monotonic() + ANSWER_SECONDS
        while not any(known.get("id") == message["run"] for known in self.messages):
            if time.monotonic() > deadline:
                raise TimeoutError("the runner does not answer")
            self.receive(0.1)
        self.known.add(message["run"])
