"""Cleaning and combining what the sources deliver."""

import csv
import gzip
import io
import json
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.report import combining, layout, rates, sources, warehouse
from etl.report.errors import NoAnswer, SourceError
from etl.storage import Storage
from lab.shop import seed
from tests import expected_sales

DAY = date(2026, 11, 3)
HEADER = "receipt;country;sold_at;currency;amount\n"
EXCHANGE = {"EUR": "1", "CHF": "0.945", "PLN": "4.2536"}


def orders(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(combining.ORDERS), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


@pytest.fixture
def combine(storage):
    """Combine receipts with no orders; return what was written and the count of the shops."""

    def work(receipts: bytes):
        storage.put(layout.orders(DAY), orders([]))
        storage.put(layout.receipts(DAY), receipts)
        counts = combining.combine(storage, DAY, EXCHANGE)
        return rows(storage, DAY), counts["shops"]

    return work


def rows(storage: Storage, day: date) -> list[dict[str, str]]:
    text = gzip.decompress(storage.get(layout.sales(day))).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_three_days_with_their_dirt_give_the_hand_checked_answer(storage, turn):
    day = next(day for day in (DAY + timedelta(days=number) for number in range(3)) if seed.turn(day) == turn)
    storage.put(layout.orders(day), orders(seed.orders(day)))
    storage.put(layout.receipts(day), seed.receipts(day))
    exchange = rates.rates([json.dumps(seed.rates(day, page)) for page in (1, 2)], day)
    counts = combining.combine(storage, day, exchange)
    assert {channel: (count.rows, count.refused) for channel, count in counts.items()} == expected_sales.REFUSED[turn]
    # The later line of two about one sale counts.
    newest = {(row["channel"], row["sale_id"]): row for row in rows(storage, day)}
    found = [tuple(row[column] for column in warehouse.KEPT) for _, row in sorted(newest.items())]
    assert found == expected_sales.sales(day, turn)
    refused = list(csv.DictReader(io.StringIO(storage.get(layout.refused(day)).decode())))
    assert len(refused) == sum(sum(count.refused.values()) for count in counts.values())


def test_the_same_sources_give_the_same_bytes(storage, combine):
    receipts = (HEADER + "a;DE;2026-11-03 10:00;EUR;1,00\n").encode()
    combine(receipts)
    first = storage.get(layout.sales(DAY))
    combine(receipts)
    assert storage.get(layout.sales(DAY)) == first


CELL = st.one_of(
    st.sampled_from(["a", '"', '""', "1,5", "\n", ";", '"x"', '"x\ny"', "x y"]), st.text('ab";\n', max_size=4)
)


@given(st.lists(st.lists(CELL, min_size=5, max_size=5), max_size=12))
def test_every_line_of_a_file_is_a_row_or_is_refused(lines):
    """Whatever quotes stand in it: by lines, of which a cell may take several, and by bytes."""
    text = "".join(";".join(cells) + "\n" for cells in lines)
    rows = refused = 0
    where = []
    for good, bad in sources.pieces(io.BytesIO((HEADER + text).encode()), combining.RECEIPTS, "file"):
        rows, refused = rows + len(good), refused + len(bad)
        where += [*good.line, *bad.line]
    physical = text.split("\n")
    assert len(where) == len(set(where)) == rows + refused
    # A line that is none of these is empty, or goes on with the cell of one before.
    held = [number for number, line in enumerate(physical, start=2) if line.strip() and number not in where]
    for number in held:
        before = max(line for line in where if line < number)
        assert "".join(physical[before - 2 : number - 1]).count('"') >= 1
        assert sum(line.count(";") >= 4 for line in physical[before - 2 : number - 1]) < 2


def test_two_stray_quotes_swallow_nothing(storage, combine):
    lines = [f"{number};DE;2026-11-03 10:00;EUR;1,00;ok" for number in range(1, 9)]
    lines[1], lines[6] = '2;DE;2026-11-03 10:00;EUR;1,00;"Shop', '7;DE;2026-11-03 10:00;EUR;1,00;Shop"'
    found, count = combine((HEADER.replace("amount", "amount;note") + "\n".join(lines) + "\n").encode())
    assert [row["sale_id"] for row in found] == ["1", "8"]
    assert (count.rows, count.accepted) == (8, 2)
    (reason,) = count.refused
    assert 'write "" for a quote in a cell (lines 3 to 8)' in reason
    refused = list(csv.DictReader(io.StringIO(storage.get(layout.refused(DAY)).decode())))
    assert [row["line"] for row in refused] == ["3", "4", "5", "6", "7", "8"]


def test_a_line_break_in_a_cell_is_read_and_a_bad_quote_costs_its_line(combine):
    lines = [
        'a;DE;2026-11-03 10:00;EUR;1,00;"one; two;\nthree; four; five; six"',
        'b;DE;2026-11-03 10:00;EUR;1,00;"x"y',
        "c;DE;2026-11-03 10:00;EUR;2,00;",
    ]
    found, count = combine((HEADER.replace("amount", "amount;note") + "\n".join(lines) + "\n").encode())
    assert [(row["sale_id"], row["line"]) for row in found] == [("a", "2"), ("c", "5")]
    ((reason, number),) = count.refused.items()
    assert number == 1 and "a quote within a cell" in reason


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (";DE;2026-11-03 10:00;EUR;1", "no id"),
        ("x\ty;DE;2026-11-03 10:00;EUR;1", "no id"),
        ("a;D;2026-11-03 10:00;EUR;1", "the country is not two letters"),
        ("a;DE;soon;EUR;1", "the time cannot be read"),
        ("a;DE;2026-11-04 00:00;EUR;1", "of another day"),
        ("a;DE;2026-11-03 10:00;USD;1", "no exchange rate"),
        ("a;DE;2026-11-03 10:00;EURO;1", "the currency is not three letters"),
        ("a;DE;2026-11-03 10:00;EUR;a lot", "the amount cannot be read"),
        ("a;DE;2026-11-03 10:00;EUR", "4 cells instead of 5"),
        ("a;DE;2026-11-03 10:00;EUR;1;2", "6 cells instead of 5"),
    ],
)
def test_a_row_that_cannot_be_right_is_refused_with_the_reason(storage, combine, cells, reason):
    found, count = combine((HEADER + "good;DE;2026-11-03 00:00;EUR;1\n\n" + cells + "\n").encode())
    assert [row["sale_id"] for row in found] == ["good"]
    assert (count.rows, count.accepted, count.refused) == (2, 1, {reason: 1})
    (refused,) = csv.DictReader(io.StringIO(storage.get(layout.refused(DAY)).decode()))
    assert (refused["channel"], refused["line"], refused["reason"]) == ("shops", "4", reason)
    assert isinstance(json.loads(refused["row"]), list)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings_are_found_out(combine, encoding):
    found, _ = combine((HEADER + "Köln-1;DE;2026-11-03 10:00;EUR;1\n").encode(encoding))
    assert [row["sale_id"] for row in found] == ["Köln-1"]


def test_one_western_byte_among_utf_8_is_read(combine):
    text = HEADER + "Łódź;PL;2026-11-03 10:00;PLN;1\n"
    found, _ = combine(text.encode() + "Köln;DE;2026-11-03 10:00;EUR;1\n".encode("cp1252"))
    assert [row["sale_id"] for row in found] == ["Łódź", "Köln"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"first line of incoming/.*/receipts.csv must name the columns receipt, country.*Deliver it anew"),
        (b"<html><body>Sign in</body></html>", "must name the columns.*begins with '<html>"),
        (b"receipt;country;sold_at\n", "must name the columns"),
        (
            (HEADER + 'a;DE;2026-11-03 10:00;EUR;1\n"b;DE\n' + "x\n" * 2000).encode(),
            "after line 2: a quote is not closed.*nor",
        ),
        ((HEADER + "a" * 200_000).encode(), "cannot be read after line 1.*characters or more"),
        (HEADER.encode("utf-16") + b"\x00", "cannot be read after line"),
        (b"\x00" * 300_000, "must name the columns"),
    ],
    ids=["empty", "html", "columns", "quote", "endless", "cut", "zeros"],
)
def test_a_file_that_cannot_be_read_is_named_and_leaves_nothing(storage, combine, content, message):
    with pytest.raises(SourceError, match=message):
        combine(content)
    assert not storage.keys("curated/") and not storage.keys("quarantine/")


def test_a_failure_leaves_what_an_earlier_run_wrote(storage, combine):
    combine((HEADER + "a;DE;2026-11-03 10:00;EUR;1\n").encode())
    before = storage.get(layout.sales(DAY))
    with pytest.raises(SourceError):
        combine(b"broken")
    assert storage.get(layout.sales(DAY)) == before


def test_a_missing_source_is_said(storage):
    with pytest.raises(FileNotFoundError):
        combining.combine(storage, DAY, EXCHANGE)


def page(**changes) -> str:
    return json.dumps({"base": "EUR", "date": "2026-11-03", "rates": {"CHF": 0.945}, **changes})


def test_rates_of_all_pages_are_read_as_they_are_written():
    assert rates.rates([page(), page(rates={"USD": "1.0842", "JPY": 163})], DAY) == {
        "EUR": "1",
        "CHF": "0.945",
        "USD": "1.0842",
        "JPY": "163",
    }


def test_rates_of_a_holiday_are_of_the_last_day_before():
    assert rates.rates([page(date="2026-10-30")], DAY)["CHF"] == "0.945"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html>Sign in</html>", "page 1 .*no JSON.*'<html>Sign in</html>'.*connection exchange_rates"),
        ("[]", "no JSON"),
        ("{}", "no JSON"),
        (page(date="soon"), "no JSON"),
        (page(rates=None), "no JSON"),
        (page(base="USD"), "for USD, not for EUR.*report_rates_endpoint"),
        (page(date="2026-11-04"), "of 2026-11-04, not of 2026-11-03"),
        (page(date="2026-10-01"), "of 2026-10-01"),
        (page(rates={"USD": 0}), "'0' for USD"),
        (page(rates={"USD": "NaN"}), "'NaN' for USD"),
        (page(rates={"USD": None}), "None for USD"),
    ],
)
def test_an_answer_without_rates_is_said(text, message):
    with pytest.raises((SourceError, NoAnswer), match=message):
        rates.rates([text], DAY)


@pytest.mark.parametrize(
    ("text", "following"), [('{"next": "rates?page=2"}', "rates?page=2"), ("{}", None), ("[]", None), ("<html>", None)]
)
def test_the_next_page_is_where_the_api_says(text, following):
    assert rates.next_page(text) == following


@pytest.mark.parametrize("address", ['"https://elsewhere/rates"', '"/rates?page=2"', '"?page=2"', "2", "[1]"])
def test_a_next_page_must_be_relative_to_the_connection(address):
    with pytest.raises(SourceError, match="must be relative to the connection"):
        rates.next_page(f'{{"next": {address}}}')


MEASURE = """
import resource, sys
from datetime import date
from etl.report import combining
from etl.storage import Storage
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
counts = combining.combine(Storage(sys.argv[1]), date(2026, 11, 3), {"EUR": "1"})
print(counts["shops"].rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_grow_with_a_file(storage):
    """Ten pieces take what one takes, more or less: 500,000 rows, as text and as a table, would be 400 MB."""
    storage.put(layout.orders(DAY), orders([]))
    with storage.writer(layout.receipts(DAY)) as target:
        target.write(HEADER.encode())
        for number in range(500_000):
            target.write(b"receipt-%09d;DE;2026-11-03 10:00;EUR;1.234,50\n" % number)
    command = [sys.executable, "-c", MEASURE, storage.address]
    answer = subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True).stdout
    counted, megabytes = map(int, answer.split())
    assert counted == 500_000
    assert megabytes < 150
