"""Numbers, their checks, and what people are shown of both."""

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from etl.report import notes, pictures, rendering
from etl.report import numbers as numbers_of
from etl.report.combining import Count
from etl.report.recipients import recipients
from etl.storage import Storage

DAY = date(2026, 11, 3)
READ = "2026-11-04 06:00:00+00"
SOUND = {"online": Count(10, {}), "shops": Count(10, {})}


def rows(online: str = "1000.00", shops: str = "500.50", past: int = 5, usual: str = "900.00") -> list[list]:
    """The warehouse's answer: today, and the same revenue in each of some days before."""
    before = [[DAY - timedelta(days=number), "online", "DE", 3, usual, READ] for number in range(1, past + 1)]
    return [*before, [DAY, "online", "DE", 3, online, READ], [DAY, "shops", "CH", 2, shops, READ]]


def numbers(answer: list[list], counts: dict[str, Count] = SOUND, tolerated: float = 1) -> dict[str, object]:
    lines = numbers_of.numbers(numbers_of.table(answer), counts, DAY, tolerated)
    return {line.name: line for line in lines}


def test_sound_numbers_are_shown_as_such():
    found = numbers(rows())
    assert [(line.sales, line.revenue, line.problem) for line in found.values()] == [
        (3, Decimal("1000.00"), ""),
        (2, Decimal("500.50"), ""),
        (5, Decimal("1500.50"), ""),
    ]
    assert [line.change for line in found.values()] == ["+11.1 %", "", ""]


def test_the_answer_is_read_whatever_the_client_made_of_it():
    for day, revenue in [(DAY, Decimal("1.5")), ("2026-11-03", 1.5), ("2026-11-03T00:00:00", "1.5")]:
        table = numbers_of.table([(day, "online", "DE", "2", revenue, READ)])
        assert table.to_numpy().tolist() == [[DAY, "online", "DE", 2, Decimal("1.5"), READ]]


@pytest.mark.parametrize(
    ("answer", "counts", "tolerated", "problem"),
    [
        (rows(), {"online": Count(200, {"no id": 2}), "shops": Count(9, {})}, 1, ""),
        (
            rows(),
            {"online": Count(200, {"no id": 2, "no rate": 1}), "shops": Count(9, {})},
            1,
            "3 of 200 rows were refused: no id (2), no rate (1)",
        ),
        (rows(), {"online": Count(200, {"no id": 3}), "shops": Count(9, {})}, 2, ""),
        (rows()[:-2] + rows()[-1:], SOUND, 1, "no sales; 0.00 times the median of the last 5 days"),
        (rows(online="4500.00"), SOUND, 1, ""),
        (rows(online="4500.01"), SOUND, 1, "5.00 times the median of the last 5 days"),
        (rows(online="9000.00"), SOUND, 1, "10.00 times the median of the last 5 days"),
        (rows(online="9000.00", past=2), SOUND, 1, ""),
        (rows(online="9000.00", usual="0.00"), SOUND, 1, ""),
        (rows(online="9000.00", past=12), SOUND, 1, "10.00 times the median of the last 7 days"),
        (rows(online="-900.00", usual="-900.00"), SOUND, 1, ""),
        (rows(online="900.00", usual="-900.00"), SOUND, 1, "-1.00 times the median of the last 5 days"),
    ],
)
def test_a_number_that_is_likely_wrong_says_why(answer, counts, tolerated, problem):
    found = numbers(answer, counts, tolerated)
    assert found["online"].problem == problem
    assert found["shops"].problem == ""
    assert found["all"].problem == ("the number of online failed its check" if problem else "")


def test_a_failed_number_is_nowhere_shown_as_sound(storage):
    counts = {"online": Count(10, {"<b>odd</b>": 4}), "shops": Count(10, {})}
    mail = rendering.render(storage, DAY, rows(), counts, 1)
    assert mail["subject"] == "Daily report 2026-11-03: 2 of 3 numbers failed their check"
    assert mail["text"].count("CHECK FAILED") == 2
    assert mail["html"].count("Check failed") == 2
    # Three cells of each of two lines; what the check says is text, not markup.
    assert mail["html"].count("line-through") == 6
    assert "&lt;b&gt;odd&lt;/b&gt; (4)" in mail["html"] and "<b>odd" not in mail["html"]
    sound = rendering.render(storage, DAY, rows(), SOUND, 1)
    assert sound["subject"] == "Daily report 2026-11-03"
    assert "failed" not in sound["html"] and "line-through" not in sound["html"]


def test_the_report_is_on_s3_as_mailed(storage):
    mail = rendering.render(storage, DAY, rows(), SOUND, 1)
    folder = "curated/report/daily/dt=2026-11-03"
    days, countries = (address.rsplit("/", 1)[1] for address in mail["pictures"])
    names = [countries, days, "report.html", "report.txt"]
    assert storage.keys(f"{folder}/") == [f"{folder}/{name}" for name in names]
    assert mail["pictures"] == [f"{storage.address}/{folder}/{name}" for name in (days, countries)]
    assert storage.get(f"{folder}/report.txt").decode() == mail["text"]
    alone = storage.get(f"{folder}/report.html").decode()
    assert alone.count("data:image/png;base64,") == 2 and "cid:" not in alone
    assert f'src="cid:{days}"' in mail["html"] and f'src="cid:{countries}"' in mail["html"]
    for name in names[:2]:
        content = storage.get(f"{folder}/{name}")
        assert content.startswith(b"\x89PNG") and content[16:24] == (960).to_bytes(4) + (400).to_bytes(4)
    assert "1,000.00" in mail["html"] and "1,000.00" in mail["text"]


def test_a_day_without_any_sale_is_a_report_too(storage):
    mail = rendering.render(storage, DAY, [], {"online": Count(0, {}), "shops": Count(0, {})}, 1)
    assert mail["subject"].endswith("3 of 3 numbers failed their check") and "no sales" in mail["text"]


def test_the_same_numbers_are_the_same_report(storage):
    first, again = (rendering.render(storage, DAY, rows(), SOUND, 1) for _ in range(2))
    other = rendering.render(storage, DAY, rows(online="1000.01"), SOUND, 1)
    assert first == again and first["sha256"] != other["sha256"]


@pytest.mark.parametrize("seed", range(2))
def test_days_that_are_filled_in_any_order_end_in_the_same_reports(tmp_path, monkeypatch, seed):
    """Even if one was made from the warehouse's answer before its neighbour was there."""
    for name in ("days", "countries"):
        monkeypatch.setattr(pictures, name, lambda figures, lines, day: b"drawn")
    span = [DAY + timedelta(days=number) for number in range(20)]
    sold = {day: [day, "online", "DE", 1 + number % 3, str(100 * (number % 7) + 40)] for number, day in enumerate(span)}

    def fill(storage, order, late=False):
        loaded, waiting, mails = [], [], {}
        for number, day in enumerate(order):
            loaded.append(day)
            notes.note_counts(storage, day, SOUND)
            around = [other for other in loaded if abs((other - day).days) < 27]
            answer = [[*sold[other], f"2026-12-01 00:00:{number:02}"] for other in around]
            waiting.append((day, answer))
            while waiting and not (late and len(waiting) < 3 and number < len(order) - 1):
                made, answer = waiting.pop(-1)
                mails[made] = rendering.render(storage, made, answer, SOUND, 1)["sha256"]
        return mails

    def reports(storage):
        return {key: storage.get(key) for key in storage.keys("curated/report/daily/") if "report." in key}

    straight, mixed = Storage(str(tmp_path / "straight")), Storage(str(tmp_path / "mixed"))
    shuffled = random.Random(seed).sample(span, len(span))
    assert fill(straight, span) == fill(mixed, shuffled, late=seed % 2 == 1)
    assert reports(straight) == reports(mixed)


def test_a_neighbouring_day_loaded_later_causes_no_new_mail(storage):
    first = rendering.render(storage, DAY, rows(past=0), SOUND, 1)
    again = rendering.render(storage, DAY, rows(past=5), SOUND, 1)
    assert first["sha256"] == again["sha256"] and first["text"] != again["text"]


def test_days_that_an_order_has_left_are_restated_if_they_were_mailed(storage):
    told, untold = (DAY - timedelta(days=past) for past in (1, 2))
    for day in (told, untold):
        notes.note_counts(storage, day, SOUND)
        known = rendering.render(storage, day, rows(), SOUND, 1)
    notes.note_counts(storage, DAY, SOUND)
    notes.note_mail(storage, told, known["sha256"], "ceo@lab,cfo@lab")
    notes.note_mail(storage, told, known["sha256"], "cfo@lab")
    made = rendering.render(storage, told, rows(), SOUND, 1)
    assert rendering.render(storage, DAY, rows(), SOUND, 1)["restated"] == []
    moved = rows(usual="899.00")
    for _ in range(2):
        # Also where the run that should have told of it was cut off before.
        (restated,) = rendering.render(storage, DAY, moved, SOUND, 1)["restated"]
        assert restated == {"day": str(told), "report": 2, "recipients": ["ceo@lab", "cfo@lab"]}
    assert rendering.render(storage, told, moved, SOUND, 1)["sha256"] != made["sha256"]
    assert rendering.render(storage, DAY, moved, SOUND, 1)["restated"] == []


@pytest.mark.parametrize(("away", "reached"), [(31, True), (-31, True), (32, False)])
def test_an_order_may_move_by_a_month(storage, away, reached):
    other = DAY + timedelta(days=away)
    notes.note_counts(storage, other, SOUND)
    notes.note_mail(storage, other, "what was told", "ceo@lab")
    assert bool(rendering.render(storage, DAY, rows(), SOUND, 1)["restated"]) == reached


def test_a_run_that_lost_its_day_to_another_stops(storage):
    notes.hold(storage, DAY, "first")
    notes.claim(storage, DAY, "first")
    notes.hold(storage, DAY, "first")
    notes.claim(storage, DAY, "second")
    with pytest.raises(notes.TakenOver, match="second has been about 2026-11-03 since: clear this whole run"):
        notes.hold(storage, DAY, "first")
    notes.hold(storage, DAY, "second")


def test_orders_that_were_read_long_ago_change_no_warehouse(storage):
    now = datetime(2026, 11, 4, 12, tzinfo=UTC)
    notes.refuse_old_orders(storage, DAY, now)
    notes.note_orders(storage, DAY, now)
    notes.refuse_old_orders(storage, DAY, now + timedelta(hours=5))
    with pytest.raises(
        notes.TakenOver, match=r"orders of 2026-11-03 were read at 2026-11-04 12:00.*clear extract_orders"
    ):
        notes.refuse_old_orders(storage, DAY, now + timedelta(hours=7))


def test_a_report_is_mailed_once_to_the_same_people(storage):
    assert not notes.was_mailed(storage, DAY, "a", "ceo@lab")
    notes.note_mail(storage, DAY, "a", "ceo@lab")
    # A preview for somebody else makes nobody forget.
    notes.note_mail(storage, DAY, "a", "me@lab")
    assert notes.was_mailed(storage, DAY, "a", "ceo@lab")
    assert not notes.was_mailed(storage, DAY, "b", "ceo@lab")
    assert not notes.was_mailed(storage, DAY, "a", "cfo@lab")
    assert not notes.was_mailed(storage, DAY - timedelta(days=1), "a", "ceo@lab")


def test_a_report_that_was_made_anew_is_not_the_newest(storage):
    first = rendering.render(storage, DAY, rows(), SOUND, 1)
    notes.note_mail(storage, DAY, first["sha256"], "ceo@lab")
    assert notes.is_newest(storage, DAY, first["sha256"])
    other = rendering.render(storage, DAY, rows(online="1000.01"), SOUND, 1)
    assert not notes.is_newest(storage, DAY, first["sha256"])
    assert set(first["pictures"]).isdisjoint(other["pictures"])
    assert notes.was_mailed(storage, DAY, first["sha256"], "ceo@lab")


def test_refunds_are_drawn_below_zero():
    from matplotlib.figure import Figure

    figures = numbers_of.table([[DAY, "online", "DE", 1, "100", READ], [DAY, "shops", "DE", 1, "-90", READ]])
    axes = Figure().subplots()
    bars = pictures._stack(axes, figures, "day", [DAY])
    assert [(bar.get_y(), bar.get_height()) for own in bars.values() for bar in own] == [(0, 100), (0, -90)]
    lowest, highest = axes.get_ylim()
    assert lowest < -90 and highest > 100


def test_who_triggers_a_run_may_mail_fewer_people_and_no_strangers():
    assert (
        recipients([], "b@x.example, a@x.example")
        == recipients([], "a@x.example,b@x.example,")
        == "a@x.example,b@x.example"
    )
    assert recipients(["B@x.example"], "a@x.example, b@x.example") == "b@x.example"
    assert recipients(["c@y.example"], "", "x.example, Y.example") == "c@y.example"
    strangers = ["c@x.example", "c@y.example.evil", "c@evil.y.example", "y.example"]
    for stranger in [*strangers, "c@evil.example,d@y.example", "<c@evil.example> d@y.example"]:
        with pytest.raises(PermissionError, match=r"may not be mailed: .*report_recipients.*report_recipient_domains"):
            recipients(["a@x.example", stranger], "a@x.example", "y.example")
