"""How X refuses: for good, or for a while."""

from __future__ import annotations

import random

from etl.errors import PermanentError, TemporaryError


class XError(PermanentError):
    """X refused, and would again; the message says what to change."""


class AuthError(XError):
    """The key is wrong (401) or its app may not do this (403)."""


class UsageCapped(XError):
    """The month's posts are used up, or the spend limit is reached; waiting for the window does not help."""


class CreditsDepleted(XError):
    """The account has no money left (402)."""


class TokenExpired(XError):
    """X does not know the page token any more; later pages must be requested by time."""


class OtherNames(XError):
    """X does not know the field names in the request: it uses the other set."""


class BudgetSpent(XError):
    """The run may buy no more posts; what was bought is kept, and a later run resumes after it."""


class QualityError(PermanentError):
    """No user passed the checks before publishing: nothing was published, the rows are in quarantine."""


class Transient(TemporaryError):
    """X or the network failed, several times in a row; later it may work."""


class BadPayload(Transient):
    """X sent an invalid answer: truncated JSON, or an object without posts, count and errors."""


class RateLimited(TemporaryError):
    """X refuses for `seconds` more, by its own clock."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"X's rate limit is used up for {seconds:.0f} s more; then it goes on where it stopped")
        self.seconds = seconds


class BudgetReserved(TemporaryError):
    """Other readers hold what is left of the budget; what they do not use is free when they end."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        # Not all at the same moment.
        self.seconds = random.uniform(20, 40)
