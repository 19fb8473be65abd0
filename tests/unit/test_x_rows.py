"""Cleaning, the contract of the columns, CSV and Parquet; partly with generated input."""

import csv
import io
from datetime import UTC, datetime, timedelta

import duckdb
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.x import output, rows
from etl.x.contract import POSTS

START = datetime(2026, 11, 1, tzinfo=UTC)
END = START + timedelta(days=1)
# What JSON can carry, including lone surrogates.
TEXT = st.text(st.characters(codec=None), max_size=60)
NASTY = [
    'a,"b"\nc',
    "lone \r return",
    "line\u2028separator",
    "nul \x00 tab \t",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "\u202eright to left",
    "e\u0301 and \u00e9",
    "half \ud83d",
    "=cmd|' /C calc'!A0",
    "@SUM(1)",
    "+1",
    "-2+3",
    "\t=1",
    "\r=1",
    "x;y",
    "",
    "NULL",
    "'quoted'",
]


def post(number=2**60, text="hello", **fields):
    return {
        "id": str(number),
        "text": text,
        "created_at": "2026-11-01T10:00:00.000Z",
        "public_metrics": {"like_count": 1, "retweet_count": 2},
        **fields,
    }


def clean(*posts, **page):
    body = {"data": list(posts), "meta": {"result_count": len(posts)}, **page}
    return rows.transform("ada", [(body, END)], START, END)


def read_back(content):
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("a &amp;lt; b", "a &lt; b"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("nul\x00 bell\x07 tab\t", "nul bell tab\t"),
        ("half \ud83d", "half \ufffd"),
        ("two halves \ud83d\ude80", "two halves \U0001f680"),
        ("whole \U0001f6e9\ufe0f", "whole \U0001f6e9\ufe0f"),
        ("e\u0301", "\u00e9"),
        ("&#0;&#13;", "\ufffd\n"),
    ],
)
def test_text_is_cleaned_once_and_rightly(raw, expected):
    assert rows.clean_text(raw) == expected


@given(TEXT)
def test_clean_text_is_fit_for_every_reader(text):
    cleaned = rows.clean_text(text)
    cleaned.encode()
    assert not {"\x00", "\r"} & set(cleaned)
    without_escapes = cleaned.replace("&", "")
    assert rows.clean_text(without_escapes) == without_escapes


@given(st.lists(TEXT, max_size=5))
def test_csv_reads_back_equal_with_both_readers(texts):
    batch = clean(*(post(2**60 + number, text) for number, text in enumerate(texts)))
    content = output.to_csv(batch.frame)
    expected = [rows.clean_text(text) for text in texts]
    assert [row["text"] for row in read_back(content)] == expected
    back = pd.read_csv(io.BytesIO(content), dtype="str", keep_default_na=False)
    assert back.text.tolist() == expected
    assert back.post_id.tolist() == [str(2**60 + number) for number in range(len(texts))]


def test_nasty_texts_survive_csv_parquet_and_duckdb(tmp_path):
    frame = clean(*(post(2**53 + number, text) for number, text in enumerate(NASTY))).frame
    expected = [(str(2**53 + number), rows.clean_text(text)) for number, text in enumerate(NASTY)]
    (tmp_path / "posts.csv").write_bytes(output.to_csv(frame))
    (tmp_path / "posts.parquet").write_bytes(output.to_parquet(frame))
    assert [(row["post_id"], row["text"]) for row in read_back(output.to_csv(frame))] == expected
    query = "SELECT post_id::VARCHAR, text FROM {} ORDER BY post_id"
    for source in (f"read_csv('{tmp_path}/posts.csv', all_varchar=true)", f"read_parquet('{tmp_path}/posts.parquet')"):
        assert [(number, text or "") for number, text in duckdb.sql(query.format(source)).fetchall()] == expected
    back = pd.read_parquet(tmp_path / "posts.parquet")
    assert list(back.columns) == POSTS.names and str(back.created_at.dtype) == "datetime64[ms, UTC]"


def test_formulas_are_guarded_only_when_asked():
    """In full width too, which spreadsheets read alike."""
    texts = ["=1", "+1", "-1", "@a", "\t1", "\uff1d1", "\uff20a", "a=1"]
    frame = clean(*(post(2**60 + number, text) for number, text in enumerate(texts))).frame
    assert [row["text"] for row in read_back(output.to_csv(frame))] == texts
    guarded = [row["text"] for row in read_back(output.to_csv(frame, formula_guard=True))]
    assert guarded == [*(f"'{text}" for text in texts[:-1]), "a=1"]


def test_csv_is_the_contract_to_the_byte():
    frame = clean(post(7, 'say "hi"', lang="en")).frame
    assert output.to_csv(frame).decode() == (
        '"username","text","like_count","retweet_count","created_at","post_id","lang","fetched_at"\n'
        '"ada","say ""hi""","1","2","2026-11-01T10:00:00Z","7","en","2026-11-02T00:00:00Z"\n'
    )


def test_a_day_without_posts_is_a_header():
    assert output.to_csv(clean().frame).decode() == ",".join(f'"{name}"' for name in POSTS.names) + "\n"
    assert rows.problems(clean(), START, END) == []


def test_a_long_post_is_whole_in_both_dialects():
    long = "x" * 25_000
    texts = clean(
        post(1, "cut", note_tweet={"text": long}), post(2, "cut", note_post={"text": "&lt;" + long})
    ).frame.text
    assert texts.tolist() == [long, "<" + long]


@pytest.mark.parametrize(
    ("kind", "field", "included"),
    [("retweeted", "referenced_tweets", "tweets"), ("reposted", "referenced_posts", "posts")],
)
def test_a_retweet_is_whole(kind, field, included):
    original = "o" * 200
    retweet = post(3, f"RT @eve: {original[:130]}…", **{field: [{"type": kind, "id": "9"}]})
    reply = post(4, "@eve yes", **{field: [{"type": "replied_to", "id": "9"}]})
    frame = clean(retweet, reply, includes={included: [{"id": "9", "text": original}]}).frame
    assert frame.text.tolist() == [f"RT @eve: {original}", "@eve yes"]
    assert clean(retweet).frame.text[0].endswith("…")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": None}, "no id"),
        ({"id": "7x"}, "no id"),
        ({"text": None}, "no text"),
        ({"created_at": None}, "no created_at"),
        ({"created_at": "yesterday"}, "no created_at"),
        ({"public_metrics": None}, "no like_count"),
        ({"public_metrics": {"like_count": 1}}, "no retweet_count"),
        ({"public_metrics": {"like_count": -1, "retweet_count": 0}}, "like_count is -1"),
        ({"public_metrics": {"like_count": "many", "retweet_count": 0}}, "like_count is 'many'"),
        ({"public_metrics": {"like_count": True, "retweet_count": 0}}, "like_count is True"),
        ({"public_metrics": 3}, "not as X describes a post: TypeError"),
        ({"text": 5}, "not as X describes a post: TypeError"),
        ({"created_at": "0001-01-01T00:00:00+05:00"}, "not as X describes a post: OverflowError"),
    ],
)
def test_a_post_that_lacks_something_is_rejected_with_the_reason(fields, reason):
    batch = clean(post(1), post(2, **fields) | fields)
    assert [rejected["reason"] for rejected in batch.rejected] == [reason]
    assert batch.frame.post_id.tolist() == ["1"] and not rows.problems(batch, START, END)


def test_dialects_may_be_mixed_and_unknown_fields_are_ignored():
    frame = clean(
        post(1, public_metrics={"like_count": "3", "repost_count": 4, "new_count": 5}, novelty={"a": 1}),
        post(2, created_at="2026-11-01T10:00:00Z"),
        post(3, created_at="2026-11-01T11:00:00+01:00"),
    ).frame
    assert frame.retweet_count.tolist() == [4, 2, 2] and frame.like_count.tolist() == [3, 1, 1]
    assert frame.created_at.nunique() == 1


def test_the_interval_holds_its_start_and_not_its_end():
    times = [
        "2026-10-31T23:59:59.999Z",
        "2026-11-01T00:00:00.000Z",
        "2026-11-01T23:59:59.000Z",
        "2026-11-02T00:00:00.000Z",
    ]
    batch = clean(*(post(number, created_at=time) for number, time in enumerate(times, start=1)))
    assert batch.frame.post_id.tolist() == ["2", "3"] and batch.outside == 2
    assert rows.problems(batch, START, END) == []


def test_of_a_post_that_came_twice_the_later_fetch_counts():
    early = {"data": [post(1)], "meta": {"result_count": 1}}
    late = {"data": [post(1, public_metrics={"like_count": 0, "retweet_count": 1})], "meta": {"result_count": 1}}
    batch = rows.transform("ada", [(early, START), (late, END)], START, END)
    assert batch.duplicates == 1 and batch.frame.like_count.tolist() == [0]
    assert batch.frame.fetched_at.tolist() == [END]


@pytest.mark.parametrize("field", ["edit_history_tweet_ids", "edit_history_post_ids"])
def test_of_an_edited_post_the_newest_version_counts(field):
    batch = clean(
        post(99, "second", **{field: ["98", "99"]}),
        post(98, "first", **{field: ["98"]}),
        post(100, "third", **{field: ["98", "99", "100"]}),
        post(101, "another", **{field: ["101"]}),
    )
    assert batch.frame.text.tolist() == ["third", "another"] and batch.superseded == 2
    assert not rows.problems(batch, START, END)


def test_the_order_of_pages_does_not_change_the_bytes():
    posts = [
        post(2**60 + number, f"text {number}", created_at=f"2026-11-01T{number:02}:00:00.000Z") for number in range(9)
    ]
    assert output.to_csv(clean(*posts).frame) == output.to_csv(clean(*reversed(posts)).frame)


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        (START, []),
        (END - timedelta(microseconds=1), []),
        (START - timedelta(microseconds=1), ["a post is outside the day"]),
        (END, ["a post is outside the day"]),
        (END + timedelta(days=1), ["a post is outside the day"]),
    ],
)
def test_a_row_of_another_day_is_no_row_of_this(moment, said):
    batch = clean(post(1))
    batch.frame = batch.frame.assign(created_at=pd.Series([moment]).astype(batch.frame.created_at.dtype))
    assert rows.problems(batch, START, END) == said


@pytest.mark.parametrize(
    ("rejected", "received", "said"),
    [(1, 2, False), (2, 3, True), (2, 4, False), (3, 5, True)],
)
def test_more_than_half_rejected_is_too_many(rejected, received, said):
    whole = [post(number) for number in range(1, received - rejected + 1)]
    batch = clean(*whole, *[post(100 + number, public_metrics={}) for number in range(rejected)])
    expected = [f"{rejected} of {received} posts were rejected: no like_count"] if said else []
    assert rows.problems(batch, START, END) == expected


def broken(batch, **frame):
    batch.frame = batch.frame.assign(**frame)
    return batch


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (lambda: broken(clean(post(1), post(2)), post_id=["1", "1"]), "post_id is there twice: '1' and 1 more"),
        (lambda: broken(clean(post(1)), text=[None]), "text has no value"),
        (lambda: broken(clean(post(1)), like_count=[-1]), "like_count is below 0: '-1'"),
        (lambda: broken(clean(post(1)), post_id=["a"]), "post_id is not of the form [0-9]{1,19}: 'a'"),
        (lambda: broken(clean(post(1)), created_at=["2026-11-21"]), "created_at is of another type"),
        (lambda: broken(clean(post(1)), created_at=[END]), "outside the day"),
        (lambda: broken(clean(post(1)), created_at=[START - timedelta(seconds=1)]), "outside the day"),
        (lambda: broken(clean(post(1)), another=[1]), "the column another is not in the contract"),
        (lambda: clean(post(1), meta={"result_count": 2}), "announced 2 posts and sent 1"),
        (lambda: clean(post(1, text=None)), "1 of 1 posts were rejected: no text"),
        (lambda: clean(post(1), *(post(n, text=None) for n in (2, 3))), "2 of 3 posts were rejected: no text"),
    ],
)
def test_what_must_not_be_published_is_found(batch, words):
    found = rows.problems(batch(), START, END)
    assert any(words in problem for problem in found), found


def test_rows_that_vanish_are_found():
    batch = clean(post(1), post(2))
    batch.frame = batch.frame.head(1)
    assert rows.problems(batch, START, END) == ["2 posts came, 1 are rows and 0 are accounted for"]


def test_every_post_that_came_is_accounted_for():
    rest = {"duplicates": 3, "superseded": 3, "outside": 3, "rejected": [{"reason": "no text"}] * 3}
    batch = rows.Batch(rows.to_frame([]), received=12, announced=12, **rest)
    assert rows.problems(batch, START, END) == []
    batch.received = batch.announced = 11
    assert "0 are rows and 12 are accounted for" in rows.problems(batch, START, END)[0]
