"""The mail server."""

from __future__ import annotations

from pathlib import Path

from lab.services.secret import secret, word
from lab.services.server import web
from lab.settings import SMTP_PORT, Lab

LOGIN = "airflow"


def password(lab: Lab) -> str:
    """The password of the machines' mail account, made once."""
    return secret(lab, "smtp_password", lambda: word(32))


def folder(lab: Lab) -> Path:
    """The folder in which each mail that the lab's machines send becomes a file."""
    return lab.state / "mail_server" / "mail" / "new"


def pid_file(lab: Lab) -> Path:
    """The mail server's pid file."""
    return lab.state / "mail_server" / "process.pid"


def up(lab: Lab, largest_mail: int = 2**25, login: str = LOGIN) -> None:
    """Start the mail server, which refuses larger mails and any other login."""
    password(lab)
    words = ["--login", login, "--password-file", str(lab.state / "smtp_password"), "--size", str(largest_mail)]
    web(lab, "mail_server", SMTP_PORT, "--folder", str(lab.state / "mail_server" / "mail"), *words, starts_plain=True)
