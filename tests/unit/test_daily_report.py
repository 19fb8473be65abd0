"""Numbers, their checks, and what people are shown of both."""

from datetime import date, timedelta
from decimal import Decimal

import pytest

from etl import daily_report
from etl.report_recipients import recipients
from etl.sales import Count

DAY = date(2026, 11, 3)
SOUND = {"online": Count(10, {}), "shops": Count(10, {})}


def rows(online: str = "1000.00", shops: str = "500.50", past: int = 5, usual: str = "900.00") -> list[list]:
    """The warehouse's answer: today, and the same revenue in each of some days before."""
    before = [[DAY - timedelta(days=number), "online", "DE", 3, usual] for number in range(1, past + 1)]
    return [*before, [DAY, "online", "DE", 3, online], [DAY, "shops", "CH", 2, shops]]


def numbers(answer: list[list], counts: dict[str, Count] = SOUND, tolerated: float = 1) -> dict[str, object]:
    lines = daily_report.numbers(daily_report.table(answer), counts, DAY, tolerated)
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
        table = daily_report.table([(day, "online", "DE", "2", revenue)])
        assert table.to_numpy().tolist() == [[DAY, "online", "DE", 2, Decimal("1.5")]]


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
    ],
)
def test_a_number_that_is_likely_wrong_says_why(answer, counts, tolerated, problem):
    found = numbers(answer, counts, tolerated)
    assert found["online"].problem == problem
    assert found["shops"].problem == ""
    assert found["all"].problem == ("the number of online failed its check" if problem else "")


def test_a_failed_number_is_nowhere_shown_as_sound(storage):
    counts = {"online": Count(10, {"<b>odd</b>": 4}), "shops": Count(10, {})}
    mail = daily_report.render(storage, DAY, rows(), counts, 1)
    assert mail["subject"] == "Daily report 2026-11-03: 2 of 3 numbers failed their check"
    assert mail["text"].count("CHECK FAILED") == 2
    assert mail["html"].count("Check failed") == 2
    # Three cells of each of two lines; what the check says is text, not markup.
    assert mail["html"].count("line-through") == 6
    assert "&lt;b&gt;odd&lt;/b&gt; (4)" in mail["html"] and "<b>odd" not in mail["html"]
    sound = daily_report.render(storage, DAY, rows(), SOUND, 1)
    assert sound["subject"] == "Daily report 2026-11-03"
    assert "failed" not in sound["html"] and "line-through" not in sound["html"]


def test_the_report_lies_on_s3_as_it_is_mailed(storage):
    mail = daily_report.render(storage, DAY, rows(), SOUND, 1)
    folder = "curated/report/daily/dt=2026-11-03"
    countries, days = (f"{kind}-{mail['sha256'][:8]}.png" for kind in ("countries", "days"))
    names = [countries, days, "notes.json", "report.html", "report.txt"]
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
    mail = daily_report.render(storage, DAY, [], {"online": Count(0, {}), "shops": Count(0, {})}, 1)
    assert mail["subject"].endswith("3 of 3 numbers failed their check") and "no sales" in mail["text"]


def test_the_same_numbers_are_the_same_report(storage):
    first, again = (daily_report.render(storage, DAY, rows(), SOUND, 1) for _ in range(2))
    other = daily_report.render(storage, DAY, rows(online="1000.01"), SOUND, 1)
    assert first == again and first["sha256"] != other["sha256"]


def test_a_report_is_mailed_once_to_the_same_people(storage):
    assert not daily_report.was_mailed(storage, DAY, "a", "ceo@lab")
    daily_report.note_mail(storage, DAY, "a", "ceo@lab")
    # A preview for somebody else makes nobody forget.
    daily_report.note_mail(storage, DAY, "a", "me@lab")
    assert daily_report.was_mailed(storage, DAY, "a", "ceo@lab")
    assert not daily_report.was_mailed(storage, DAY, "b", "ceo@lab")
    assert not daily_report.was_mailed(storage, DAY, "a", "cfo@lab")
    assert not daily_report.was_mailed(storage, DAY - timedelta(days=1), "a", "ceo@lab")


def test_a_report_that_was_made_anew_is_not_the_newest(storage):
    first = daily_report.render(storage, DAY, rows(), SOUND, 1)
    daily_report.note_mail(storage, DAY, first["sha256"], "ceo@lab")
    assert daily_report.is_newest(storage, DAY, first["sha256"])
    other = daily_report.render(storage, DAY, rows(online="1000.01"), SOUND, 1)
    assert not daily_report.is_newest(storage, DAY, first["sha256"])
    assert set(first["pictures"]).isdisjoint(other["pictures"])
    assert daily_report.was_mailed(storage, DAY, first["sha256"], "ceo@lab")


def test_what_was_given_back_hangs_below_zero():
    from matplotlib.figure import Figure

    figures = daily_report.table([[DAY, "online", "DE", 1, "100"], [DAY, "shops", "DE", 1, "-90"]])
    axes = Figure().subplots()
    bars = daily_report._stack(axes, figures, "day", [DAY])
    assert [(bar.get_y(), bar.get_height()) for own in bars.values() for bar in own] == [(0, 100), (0, -90)]
    lowest, highest = axes.get_ylim()
    assert lowest < -90 and highest > 100


def test_who_triggers_a_run_may_mail_fewer_people_and_no_strangers():
    assert recipients([], "a@x.example, b@x.example") == "a@x.example, b@x.example"
    assert recipients(["B@x.example"], "a@x.example, b@x.example") == "B@x.example"
    assert recipients(["c@y.example"], "", "x.example, Y.example") == "c@y.example"
    strangers = ["c@x.example", "c@y.example.evil", "c@evil.y.example", "y.example"]
    for stranger in [*strangers, "c@evil.example,d@y.example", "<c@evil.example> d@y.example"]:
        with pytest.raises(PermissionError, match=r"may not be mailed: .*report_recipients.*report_recipient_domains"):
            recipients(["a@x.example", stranger], "a@x.example", "y.example")
