"""What a day may cost, with readers side by side."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from etl import twitter_etl
from etl.twitter_etl import Budget, User
from etl.x import budget as budgets
from etl.x import errors, raw
from etl.x.errors import BudgetSpent
from lab.x_api.people import Person, written
from tests.unit.x_day import DAY, START, collect


def test_the_budget_of_posts_ends_the_run_and_what_was_bought_is_kept(x, client, storage, busy):
    with pytest.raises(BudgetSpent, match=r"2[34]\d posts .*x_max_posts"):
        collect(client, storage, ["busy"], Budget(posts=250))
    assert 250 - 15 < budgets.spent(storage, DAY)[0] <= 250
    assert collect(client, storage, ["busy"], Budget(posts=1000))["rows"] == 730
    assert x.usd == round(730 * 0.005 + 0.01, 3)


def test_who_triggers_a_run_may_lower_its_budget_and_not_raise_it():
    usual = Budget.of("100", "5.0")
    assert usual.lowered(None, None) == usual
    assert usual.lowered(50, 0.5) == Budget(50, 500)
    with pytest.raises(errors.XError, match=r"max_posts is 101, above the 100 .*airflow_variables.x_max_posts"):
        usual.lowered(101, None)
    with pytest.raises(errors.XError, match=r"max_usd is 5.01, above the 5 .*airflow_variables.x_max_usd"):
        usual.lowered(None, 5.01)


def test_the_budget_of_money_holds_for_all_users_together(x, client, storage, busy):
    x.people.append(Person("8", "busier", posts_per_day=900))
    with pytest.raises(BudgetSpent, match="x_max_usd"):
        collect(client, storage, ["busy", "busier"], Budget.of(None, "5.0"))
    assert 4.9 < x.usd <= 5.0


def retweeting(number, count):
    """A person each of whose posts repeats another's, which X charges too."""
    person = Person(str(number), f"echo_{number}", posts_per_day=0)
    for second in range(count):
        original = written(Person("99", "eve"), START + timedelta(seconds=second), f"{number} {second}")
        original["id"] = f"{number}{second:06}"
        said = written(person, START + timedelta(seconds=second), f"RT @eve: {number} {second}")
        references = {"referenced_tweets": [{"type": "retweeted", "id": original["id"]}], "referenced": original}
        person.written.append({**said, **references})
    return person


@pytest.mark.parametrize("usd", ["0.08", "1.00", "3.00"])
def test_eight_readers_at_once_stay_in_the_budget_with_all_that_x_charges(x, client, storage, usd):
    x.people = [retweeting(100 + number, 150) for number in range(8)]

    def read(person):
        while True:
            try:
                return twitter_etl.extract(client, storage, User(person.id, person.username), DAY, Budget.of(None, usd))
            except errors.BudgetReserved:
                time.sleep(random.random() / 20)
            except BudgetSpent:
                return None

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, x.people))
    assert None in found and float(usd) - 15 * 0.005 < x.usd <= float(usd)


def test_of_two_that_reserve_at_once_one_sees_the_other(storage, monkeypatch):
    first, second = (budgets.Reader(storage, DAY, number, Budget(posts=150), expand=False) for number in "12")
    note, sizes = budgets.Reader._note, {}

    def meanwhile(self, number, posts):
        note(self, number, posts)
        if self is first and not sizes:
            sizes["second"] = second.page(1)

    monkeypatch.setattr(budgets.Reader, "_note", meanwhile)
    sizes["first"] = first.page(1)
    assert sizes == {"first": 100, "second": 50}


@pytest.mark.parametrize("more", [timedelta(0), timedelta(days=1)])
def test_reservations_of_an_interrupted_reader_expire(storage, more):
    now = [datetime.now(UTC)]
    first, second = (
        budgets.Reader(storage, DAY, number, Budget(posts=100), expand=False, clock=lambda: now[0]) for number in "12"
    )
    assert first.page(1) == 100
    with pytest.raises(errors.BudgetReserved):
        second.page(1)
    now[0] += budgets.HELD + more
    assert second.page(1) == 100
    # Whoever was so slow asks again before it buys.
    with pytest.raises(errors.BudgetReserved):
        first.page(2)


@pytest.mark.parametrize(
    ("posts", "expand", "reserved", "size"),
    [
        # Ten pages where there is plenty, an eighth where there is less, and a page at least.
        (20_000, False, 1000, 100),
        (8_000, False, 1000, 100),
        (7_992, False, 999, 100),
        (801, False, 100, 100),
        (500, False, 100, 100),
        (99, False, 99, 99),
        (5, False, 5, 5),
        (20_000, True, 2500, 100),
        (299, True, 299, 99),
        (15, True, 15, 5),
    ],
)
def test_how_much_is_reserved_at_once(storage, posts, expand, reserved, size):
    reader = budgets.Reader(storage, DAY, "1", Budget(posts, 10**9), expand)
    assert reader.page(1) == size
    (key,) = storage.keys("raw/x/reserved/")
    assert raw.reservation(key).posts == reserved and raw.reservation(key).page == 1


@pytest.mark.parametrize(("posts", "expand"), [(4, False), (14, True), (0, False), (-1, False)])
def test_less_than_the_smallest_page_is_nothing(storage, posts, expand):
    with pytest.raises(BudgetSpent, match=rf"0 posts \(0.00 USD\).*{posts} posts and 100.00 USD"):
        budgets.Reader(storage, DAY, "1", Budget(posts), expand).page(1)


def test_money_is_spent_by_the_whole_post(storage):
    """49 mills are nine posts of 5."""
    assert budgets.Reader(storage, DAY, "1", Budget(1000, 49), expand=False).page(1) == 9


def test_a_reservation_is_asked_for_again_after_a_third_of_its_time_or_when_a_page_does_not_fit(storage):
    now = [datetime(2026, 11, 2, tzinfo=UTC)]
    reader = budgets.Reader(storage, DAY, "1", Budget(posts=3000), expand=False, clock=lambda: now[0])

    def reservations() -> int:
        reader.page(2)
        return len(storage.keys("raw/x/reserved/"))

    assert reservations() == 1
    reader.take(275)
    assert reservations() == 1
    now[0] += timedelta(minutes=5)
    assert reservations() == 1
    now[0] += timedelta(seconds=1)
    assert reservations() == 2
    reader.take(276)
    now[0] += timedelta(seconds=1)
    assert reservations() == 3


def test_what_others_hold_is_what_they_reserved_less_what_they_bought_since(storage):
    now = datetime(2026, 11, 2, 1, tzinfo=UTC)

    def reserve(user: str, minutes: float, page: int, posts: int) -> None:
        found = raw.Reservation(user, now - timedelta(minutes=minutes), page, posts)
        storage.put(raw.reserved_key(DAY, found), b"")

    def bought(user: str, page: int, posts: int) -> None:
        storage.put(f"{raw.folder(DAY, user)}page-{page:04}-on-2026-11-02-posts-{posts:03}.jsonl.gz", b"")

    reserve("2", 14.9, 3, 300)
    bought("2", 2, 70)
    bought("2", 3, 30)
    bought("2", 4, 10)
    # Of one user the newest counts; another was cut off.
    reserve("3", 9, 1, 900)
    reserve("3", 8, 1, 20)
    bought("3", 1, 25)
    reserve("4", 15, 1, 600)
    # One's own does not.
    reserve("1", 1, 1, 500)
    reader = budgets.Reader(storage, DAY, "1", Budget(posts=135 + 260 + 40), expand=False, clock=lambda: now)
    assert reader.page(1) == 40
