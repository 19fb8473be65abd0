"""Who may be mailed the business report."""

from __future__ import annotations

import re

# One address and nothing else, which a mail program could take for more.
ADDRESS = re.compile(r"[^@\s,;<>\"()]+@([^@\s,;<>\"()]+)")


def recipients(asked: list[str], usual: str, domains: str = "") -> str:
    """Return the addresses to mail, each once, sorted, with commas between: those `asked` for, else the `usual` ones.

    `usual` and `domains` are texts with commas. Anyone who can trigger a run can leave people out; only
    the administrator can add others. Raises PermissionError.
    """
    known, homes = _items(usual), _items(domains)
    strangers = [address for address in asked if address.lower() not in known and _home(address) not in homes]
    if strangers:
        raise PermissionError(
            f"{', '.join(strangers)} may not be mailed: add the address to airflow_variables.report_recipients, or its "
            "domain to report_recipient_domains, and run playbooks/site.yml --tags airflow"
        )
    return ",".join(sorted(_items(",".join(asked)) or known))


def _home(address: str) -> str:
    found = ADDRESS.fullmatch(address.lower())
    return found[1] if found else ""


def _items(text: str) -> set[str]:
    return {item.strip().lower() for item in text.split(",") if item.strip()}
