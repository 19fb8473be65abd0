"""What a source delivered that cannot be read."""

from __future__ import annotations

from etl.errors import PermanentError, TemporaryError


class SourceError(PermanentError):
    """A source delivered what cannot be read; the message says what, where, and what to do."""


class NoAnswer(TemporaryError):
    """A source answered without data, like a proxy or a server that starts; a retry may work."""
