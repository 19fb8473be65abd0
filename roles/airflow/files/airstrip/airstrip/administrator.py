"""administrator.py USERNAME EMAIL: create the administrator, or set the password from the secrets.

`airflow users create` would take the password as an argument, for every user of the host to read.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder


def main(username: str, email: str) -> None:
    """Make the user. Raises SystemExit where Airflow does not."""
    password = Path(os.environ["CREDENTIALS_DIRECTORY"], "admin_password").read_text().strip()
    with get_application_builder() as builder:
        security = builder.sm
        user = security.find_user(username)
        if user:
            security.reset_password(user.id, password)
        elif not security.add_user(username, "Airflow", "Admin", email, security.find_role("Admin"), password):
            raise SystemExit(f"{username} was not made: is {email} taken by another user? Set airflow_admin_email")


if __name__ == "__main__":
    main(*sys.argv[1:])
