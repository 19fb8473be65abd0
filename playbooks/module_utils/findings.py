"""What a doctor's check returns: one line, and the fix where something is wrong."""

from __future__ import annotations

from collections.abc import Callable

Check = Callable[[], str]


class Sick(Exception):
    """A check failed: what is wrong, and the command or variable that fixes it."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.fix = fix


def examine(checks: dict[str, Check]) -> list[dict[str, object]]:
    """Run every check, the sick ones too, and return one finding each."""
    findings = []
    for name, check in checks.items():
        try:
            line, ok = f"ok    {name:<14} {check()}", True
        except Sick as sick:
            line, ok = f"FAIL  {name:<14} {sick}; fix: {sick.fix}", False
        except Exception as error:
            line, ok = f"FAIL  {name:<14} {type(error).__name__}: {error}; fix: run the check by hand and look", False
        findings.append({"name": name, "ok": ok, "line": line})
    return findings
