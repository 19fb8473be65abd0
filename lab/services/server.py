"""How a server of the lab is started, and whether it answers."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys

from lab.run import start, wait_for
from lab.services import certificates
from lab.settings import Lab


def listens(lab: Lab, port: int) -> bool:
    """Whether a service of the lab answers there under the lab's certificate."""
    context = ssl.create_default_context(cafile=str(certificates.authority(lab)))
    try:
        plain = socket.create_connection((lab.gateway, port), timeout=2)
        with plain, context.wrap_socket(plain, server_hostname=lab.gateway):
            return True
    except OSError:
        return False


def accepts(lab: Lab, port: int) -> bool:
    """Whether a service of the lab that speaks no TLS accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((lab.gateway, port), timeout=2):
        return True
    return False


def web(lab: Lab, name: str, port: int, *arguments: str, starts_plain: bool = False) -> None:
    """Start a server of the lab with the lab's certificate, shown at once or, like STARTTLS, on request."""
    pid_file = lab.state / name / "process.pid"
    certificate = ["--certificate", str(lab.certificates / "services.pem")]
    certificate += ["--key", str(lab.certificates / "services.key")]
    address = ["--address", lab.gateway, "--port", str(port)]
    start(pid_file, [sys.executable, "-m", f"lab.{name}", *address, *certificate, *arguments])
    wait_for(f"lab.{name}", lambda: (accepts if starts_plain else listens)(lab, port), 60, pid_file.with_suffix(".log"))
