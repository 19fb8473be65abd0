"""What a day may cost, kept by readers that work side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from etl.storage import Storage
from etl.x import raw
from etl.x.errors import BudgetReserved, BudgetSpent, XError
from etl.x.prices import CHARGED_WITH_EXPANSIONS, POST_MILLS, USER_MILLS, dollars

PAGE_POSTS, SMALLEST_PAGE = 100, 5
# Pages to reserve at once while there is plenty.
PAGES = 10
SHARES = 8
# No page takes longer, retries and pauses included; a reader that holds a reservation longer has died.
HELD = timedelta(minutes=15)


@dataclass(frozen=True)
class Budget:
    """What one day may cost, including what earlier runs of the day bought."""

    posts: int = 20_000
    mills: int = 100_000

    @classmethod
    def of(cls, posts: int | str | None, usd: Decimal | float | str | None) -> Budget:
        """Return a budget of posts and USD; None is the usual one."""
        usual = cls()
        return cls(
            usual.posts if posts is None else int(posts),
            usual.mills if usd is None else int(Decimal(str(usd)) * 1000),
        )

    def lowered(self, posts: int | None, usd: Decimal | float | str | None) -> Budget:
        """Return the budget of a run that asks for less; None asks for nothing. Raises XError for more."""
        asked = Budget(
            self.posts if posts is None else posts, self.mills if usd is None else Budget.of(None, usd).mills
        )
        for name, wanted, most in (
            ("max_posts", asked.posts, self.posts),
            ("max_usd", dollars(asked.mills), dollars(self.mills)),
        ):
            if wanted > most:
                raise XError(
                    f"{name} is {wanted}, above the {most} of the variable x_{name}: ask for less, or raise "
                    f"airflow_variables.x_{name} and run playbooks/site.yml --tags airflow"
                )
        return asked


def spent(storage: Storage, day: date) -> tuple[int, int]:
    """Return the posts that were bought for a day, and the mills that they and the users cost before X's discounts."""
    posts = sum(map(raw.charged, storage.keys(f"{raw.POSTS}/dt={day}/")))
    users = sum(map(raw.charged, storage.keys(f"{raw.USERS}/dt={day}/")))
    return posts, posts * POST_MILLS + users * USER_MILLS


class Reader:
    """What one user's reader may still buy. It reserves before it asks X, so that all readers stay in the budget.

    Reservations are objects whose names hold their first page and their posts; a user's newest one counts, less what
    was bought since. A reader checks after reserving, and gives up what others have reserved before: if two reserve
    at once, at least one sees the other.
    """

    def __init__(
        self,
        storage: Storage,
        day: date,
        user_id: str,
        budget: Budget,
        expand: bool,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._storage, self._day, self._user, self._budget, self._clock = storage, day, user_id, budget, clock
        self._each = CHARGED_WITH_EXPANSIONS if expand else 1
        self._left = 0
        self._reserved = False
        self._at = clock()

    def page(self, number: int) -> int:
        """Return how many posts the page of this number may have. Raises BudgetSpent, BudgetReserved."""
        # Others count it only for HELD; a page may take a good part of that.
        if self._left < PAGE_POSTS * self._each or self._clock() - self._at > HELD / 3:
            self._reserve(number)
        return min(PAGE_POSTS, self._left // self._each)

    def take(self, charged: int) -> None:
        """Note what was bought."""
        self._left -= charged

    def release(self) -> None:
        """Leave to others what was not bought."""
        if self._reserved:
            self._note(9999, 0)

    def _reserve(self, number: int) -> None:
        least, whole = SMALLEST_PAGE * self._each, PAGE_POSTS * self._each
        left = self._free()
        amount = min(left, max(whole, min(left // SHARES, PAGES * whole)))
        if amount >= least:
            self._note(number, amount)
            amount = min(amount, self._free())
        if amount < least:
            self.release()
            posts, mills = spent(self._storage, self._day)
            if self._unspent(posts, mills) >= least:
                raise BudgetReserved("other readers have reserved the rest of the day's budget")
            raise BudgetSpent(
                f"{posts} posts ({dollars(mills):.2f} USD) of {self._day} are bought and the budget is "
                f"{self._budget.posts} posts and {dollars(self._budget.mills):.2f} USD: raise x_max_posts or x_max_usd "
                "(or start the day anew with more); what was bought is kept"
            )
        self._left = amount

    def _unspent(self, posts: int, mills: int) -> int:
        return min(self._budget.posts - posts, (self._budget.mills - mills) // POST_MILLS)

    def _free(self) -> int:
        """The posts that neither were bought nor are reserved by others."""
        # In this order: what is bought in between is counted twice rather than missed.
        others = self._others()
        return self._unspent(*spent(self._storage, self._day)) - others

    def _others(self) -> int:
        newest: dict[str, raw.Reservation] = {}
        for key in self._storage.keys(f"{raw.RESERVED}/dt={self._day}/"):
            found = raw.reservation(key)
            newest[found.user_id] = max(found, newest.get(found.user_id, found), key=lambda one: one.at)
        held = 0
        for user, found in newest.items():
            if user != self._user and self._clock() - found.at < HELD and found.posts:
                pages = self._storage.keys(f"{raw.POSTS}/dt={self._day}/user_id={user}/")
                since = sum(raw.charged(key) for key in pages if raw.number(key) >= found.page)
                held += max(0, found.posts - since)
        return held

    def _note(self, number: int, posts: int) -> None:
        self._at = self._clock()
        self._storage.put(raw.reserved_key(self._day, raw.Reservation(self._user, self._at, number, posts)), b"")
        self._reserved = True
