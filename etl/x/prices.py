"""What X charges before its discounts. Money is whole mills, a thousandth of a USD."""

from __future__ import annotations

from decimal import Decimal

# Source: X's pricing page, pay per use.
POST_MILLS, USER_MILLS = 5, 10
# A post refers to two others at most: one that it answers, and one that it quotes or repeats.
CHARGED_WITH_EXPANSIONS = 3


def dollars(mills: int) -> Decimal:
    """Return mills as USD."""
    return Decimal(mills) / 1000
