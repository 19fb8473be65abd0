"""What stops a step of a pipeline, and whether it may be tried again."""

from __future__ import annotations


class PermanentError(Exception):
    """Trying again changes nothing; the message says what to change."""


class TemporaryError(Exception):
    """Later it may work: after `seconds`, where that is known."""

    seconds: float | None = None
