"""What stops a step of a pipeline, and whether it may be tried again."""

from __future__ import annotations


class PermanentError(Exception):
    """Retrying does not help; the message says what to change."""


class TemporaryError(Exception):
    """A retry may work: after `seconds`, if known."""

    seconds: float | None = None
