"""The mail server."""

from __future__ import annotations

import sys
from pathlib import Path

from lab.run import start, wait_for
from lab.services.server import accepts
from lab.settings import SMTP_PORT, Lab


def folder(lab: Lab) -> Path:
    """The folder in which each mail that the lab's machines send becomes a file."""
    return lab.state / "smtp" / "mail" / "new"


def pid_file(lab: Lab) -> Path:
    """The file that names the mail server's process."""
    return lab.state / "smtp" / "process.pid"


def up(lab: Lab, largest_mail: int = 2**25) -> None:
    """Start the mail server, which refuses mails with more bytes."""
    start(
        pid_file(lab),
        [
            *[sys.executable, "-m", "aiosmtpd", "--nosetuid", "--listen", f"{lab.gateway}:{SMTP_PORT}"],
            *["--size", str(largest_mail), "--class", "aiosmtpd.handlers.Mailbox", str(lab.state / "smtp" / "mail")],
        ],
    )
    wait_for("the mail server", lambda: accepts(lab, SMTP_PORT), 20, pid_file(lab).with_suffix(".log"))
