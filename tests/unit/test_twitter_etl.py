"""The X pipeline against the lab's stand-in over real TLS, and its cleaning."""

import csv
import io
import ssl
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer

import pandas as pd
import pytest

from etl import twitter_etl
from lab import x_api
from lab.settings import USERNAMES

TOKEN = "unit-test-token"
DAY = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", *names, *files], check=True, capture_output=True
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), x_api.Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    x_api.Handler.token = TOKEN
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_port}", str(folder / "cert.pem")
    server.shutdown()


@pytest.fixture
def client(endpoint, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", endpoint[1])
    return twitter_etl.x_client(TOKEN, endpoint[0])


def test_collects_every_post_of_the_day_once(client):
    users = twitter_etl.resolve_users(client, USERNAMES)
    rows = []
    for user in users:
        posts = twitter_etl.fetch_posts(client, user, DAY, DAY + timedelta(days=1))
        rows += [twitter_etl.clean_post(user, post) for post in posts]
    frame = twitter_etl.to_frame(rows)
    assert list(frame.columns) == twitter_etl.COLUMNS
    expected = {post["id"] for name in USERNAMES for post in x_api.posts(name, DAY)}
    assert set(frame.post_id) == expected and frame.post_id.is_unique


def test_follows_the_pages(client, monkeypatch):
    monkeypatch.setattr(twitter_etl, "PAGE_SIZE", 5)
    user = twitter_etl.resolve_users(client, USERNAMES[:1])[0]
    posts = list(twitter_etl.fetch_posts(client, user, DAY, DAY + timedelta(days=3)))
    assert len({post["id"] for post in posts}) == 3 * x_api.POSTS_PER_DAY


def test_usernames_are_cleaned_and_unique(client):
    users = twitter_etl.resolve_users(client, [" @Ada_Airfield", "ada_airfield", ""])
    assert users == [twitter_etl.User("1000", "ada_airfield")]


def test_an_unknown_user_is_named_with_the_fix(client):
    with pytest.raises(twitter_etl.XApiError, match=r"nobody_here.*x_usernames"):
        twitter_etl.resolve_users(client, ["ada_airfield", "nobody_here"])


def test_no_usernames_names_the_variable(client):
    with pytest.raises(twitter_etl.XApiError, match="x_usernames"):
        twitter_etl.resolve_users(client, [""])


def test_a_refused_key_names_the_variable(endpoint, client):
    refused = twitter_etl.x_client("wrong", endpoint[0])
    with pytest.raises(twitter_etl.XApiError, match=r"401.*airflow_connections\.x_api\.password"):
        twitter_etl.resolve_users(refused, USERNAMES)


@pytest.mark.parametrize(
    ("token", "url", "words"), [("", "https://api.x.com", "no X bearer"), ("t", "http://x", "https")]
)
def test_bad_settings_stop_before_the_first_request(token, url, words):
    with pytest.raises(twitter_etl.XApiError, match=words):
        twitter_etl.x_client(token, url)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a &amp;lt; b", "a &lt; b"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("nul\x00 bell\x07 tab\t", "nul bell tab\t"),
        ("half \ud83d", "half \ufffd"),
        ("whole \U0001f6e9\ufe0f", "whole \U0001f6e9\ufe0f"),
        ("e\u0301", "é"),
    ],
)
def test_text_is_cleaned_once_and_rightly(raw, clean):
    assert twitter_etl.clean_text(raw) == clean


def test_csv_reads_back_equal_with_both_readers():
    texts = ['a,"b"\nc', "=1+1", "x;y", "emoji \U0001f6e9", ""]
    posts = [
        {"id": str(2**60 + n), "text": text, "created_at": "2026-11-01T00:00:00.000Z",
         "public_metrics": {"like_count": n, "retweet_count": 0}}
        for n, text in enumerate(texts)
    ]  # fmt: skip
    user = twitter_etl.User("1", "ada")
    frame = twitter_etl.to_frame(twitter_etl.clean_post(user, post) for post in posts)
    content = twitter_etl.to_csv(frame)
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    assert [row["text"] for row in rows] == texts
    back = pd.read_csv(io.BytesIO(content), dtype={"post_id": "str", "text": "str"}, keep_default_na=False)
    pd.testing.assert_frame_equal(back, frame, check_dtype=False)


def test_a_day_without_posts_is_a_header():
    assert (
        twitter_etl.to_csv(twitter_etl.to_frame([])).decode() == ",".join(f'"{c}"' for c in twitter_etl.COLUMNS) + "\n"
    )


def test_the_same_posts_in_another_order_give_the_same_bytes():
    user = twitter_etl.User("1000", "ada_airfield")
    rows = [twitter_etl.clean_post(user, post) for post in x_api.posts("ada_airfield", DAY)]
    assert twitter_etl.to_csv(twitter_etl.to_frame(rows)) == twitter_etl.to_csv(
        twitter_etl.to_frame(reversed(rows + rows))
    )


def test_both_dialects_of_the_api_are_read():
    post = {"id": 7, "text": "cut…", "note_post": {"text": "the whole"}, "created_at": "2026-11-01T10:00:00.000Z",
            "public_metrics": {"like_count": 1, "repost_count": 2}}  # fmt: skip
    row = twitter_etl.clean_post(twitter_etl.User("1", "ada"), post)
    assert (row["text"], row["retweet_count"], row["post_id"]) == ("the whole", 2, "7")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError("gone"), r"no bucket nowhere.*x_bucket"),
        (PermissionError("no"), r"AccessDenied.*provision.yml"),
    ],
)
def test_a_bucket_that_takes_nothing_names_the_fix(error, words):
    class Filesystem:
        def pipe_file(self, path, content):
            raise error

    with pytest.raises(twitter_etl.BucketRefused, match=words):
        twitter_etl.store(Filesystem(), "nowhere", twitter_etl.object_key(DAY), b"")


def test_key_holds_the_day():
    assert twitter_etl.object_key(DAY) == "curated/x/posts/dt=2026-11-01/posts.csv"
