"""The stand-in held against three clients that others wrote: tweepy, X's own xdk, and twarc."""

import json
from datetime import timedelta
from urllib.parse import urlencode

import pytest
import requests
import twarc
import tweepy
import xdk
import xdk.oauth1_auth
from requests.adapters import HTTPAdapter

from lab.x_api.api import Fault, XApi
from lab.x_api.people import Person, written
from tests.unit.conftest import KEYS, NOW

DAY = {"start_time": "2026-11-01T00:00:00Z", "end_time": "2026-11-02T00:00:00Z"}


class Elsewhere(HTTPAdapter):
    """Leads a client that knows only X's address to the stand-in."""

    def __init__(self, address):
        super().__init__()
        self.address = address

    def send(self, request, **options):
        request.url = request.url.replace("https://api.twitter.com", self.address).replace(
            "https://api.x.com", self.address
        )
        return super().send(request, **options)


@pytest.fixture
def reader(x):
    x.people.append(Person("7", "busy", posts_per_day=120))
    return x


def of_tweepy(server, **keys):
    client = tweepy.Client(**keys)
    client.session.mount("https://", Elsewhere(server.address))
    return client


def test_tweepy_reads_users_and_pages(reader, x_server):
    client = of_tweepy(x_server, bearer_token=KEYS.bearer_token)
    answer = client.get_users(usernames=["Busy", "nobody"], user_fields=["created_at", "public_metrics", "protected"])
    assert [user.username for user in answer.data] == ["busy"] and answer.data[0].created_at
    assert answer.errors[0]["title"] == "Not Found Error"
    fields = ["created_at", "public_metrics", "lang", "referenced_tweets"]
    pages = tweepy.Paginator(client.get_users_tweets, 7, max_results=50, tweet_fields=fields, **DAY)
    posts = [post for page in pages for post in page.data]
    assert len({post.id for post in posts}) == 120
    assert posts == sorted(posts, key=lambda post: -post.id)
    assert all((post.id >> 22) + 1288834974657 == int(post.created_at.timestamp() * 1000) for post in posts)


def test_tweepy_signs_as_a_user(reader, x_server):
    keys = {
        name: getattr(KEYS, name) for name in ("consumer_key", "consumer_secret", "access_token", "access_token_secret")
    }
    client = of_tweepy(x_server, **keys)
    assert len(client.get_users_tweets(7, user_auth=True, **DAY).data) == 10
    assert reader.log[-1]["by"] == "user"
    with pytest.raises(tweepy.Unauthorized):
        of_tweepy(x_server, **{**keys, "access_token_secret": "another"}).get_users_tweets(7, user_auth=True)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("rate_limited", tweepy.TooManyRequests),
        ("rate_limited_88", tweepy.TooManyRequests),
        ("usage_capped", tweepy.TooManyRequests),
        ("credits_depleted", tweepy.HTTPException),
        ("unauthorized", tweepy.Unauthorized),
        ("client_forbidden", tweepy.Forbidden),
        ("over_capacity", tweepy.TwitterServerError),
        ("unavailable", tweepy.TwitterServerError),
        ("server_error", tweepy.TwitterServerError),
        ("html", tweepy.TwitterServerError),
        ("cut_json", requests.JSONDecodeError),
        ("short_body", requests.exceptions.ChunkedEncodingError),
        ("reset", requests.ConnectionError),
    ],
)
def test_tweepy_sees_each_error_as_its_own(reader, x_server, kind, error):
    reader.faults = [Fault(kind, [1])]
    with pytest.raises(error):
        of_tweepy(x_server, bearer_token=KEYS.bearer_token).get_users_tweets(7)


def test_tweepy_sees_why_a_user_is_not_shown(reader, x_server):
    reader.people += [Person("8", "shy", status="protected"), Person("9", "gone", status="suspended")]
    client = of_tweepy(x_server, bearer_token=KEYS.bearer_token)
    assert client.get_user(username="gone").errors[0]["detail"] == "User has been suspended: [gone]."
    answer = client.get_users_tweets(8)
    assert answer.data is None and answer.errors[0]["type"].endswith("/not-authorized-for-resource")
    with pytest.raises(tweepy.BadRequest, match="max_results"):
        client.get_users_tweets(7, max_results=4)


def test_xdk_reads_the_newer_dialect(reader, x_server):
    client = xdk.Client(base_url=x_server.address, bearer_token=KEYS.bearer_token)
    users = client.users.get_by_usernames(["busy"], user_fields=["protected", "public_metrics"])
    assert users.data[0].model_dump()["id"] == "7"
    fields = ["created_at", "public_metrics", "note_post", "lang"]
    pages = list(
        client.users.get_posts("7", max_results=100, post_fields=fields, expansions=["referenced_posts"], **DAY)
    )
    posts = [post if isinstance(post, dict) else post.model_dump() for page in pages for post in page.data]
    assert len({post["id"] for post in posts}) == 120
    assert all(post["public_metrics"]["repost_count"] >= 0 and post["edit_history_post_ids"] for post in posts)
    assert "retweet_count" not in posts[0]["public_metrics"]


def test_xdk_signs_as_a_user(reader, x_server):
    auth = xdk.oauth1_auth.OAuth1(
        KEYS.consumer_key, KEYS.consumer_secret, "https://localhost", KEYS.access_token, KEYS.access_token_secret
    )
    client = xdk.Client(base_url=x_server.address, auth=auth)
    assert client.users.get_by_usernames(["busy"]).data
    assert reader.log[-1]["by"] == "user"


def test_twarc_reads_all_its_fields_and_pages(reader, x_server):
    client = twarc.Twarc2(bearer_token=KEYS.bearer_token, metadata=False)
    client.client.mount("https://", Elsewhere(x_server.address))
    end = NOW.replace(hour=0, minute=0)
    pages = client.timeline(7, max_results=50, start_time=end - timedelta(days=1), end_time=end)
    posts = [post for page in pages for post in page["data"]]
    assert len({post["id"] for post in posts}) == 120
    assert {"author_id", "public_metrics", "conversation_id"} <= set(posts[0])


def ask(x, path, token=KEYS.bearer_token, **query):
    """A bare request, without a client."""
    return x.answer("http://own", f"{path}?{urlencode(query)}", {"Authorization": f"Bearer {token}"})


def test_empty_fields_are_left_out_and_unasked_ones_too(x):
    quiet = Person("5", "quiet", posts_per_day=0)
    x.people.append(quiet)
    assert json.loads(ask(x, "/2/users/5/tweets").body) == {"meta": {"result_count": 0}}
    quiet.written.append(written(quiet, NOW.replace(day=1), "hello"))
    assert set(json.loads(ask(x, "/2/users/5/tweets").body)["data"][0]) == {"id", "text", "edit_history_tweet_ids"}


def test_page_tokens_belong_to_their_query_and_expire(x):
    def page(**query):
        return ask(x, "/2/users/1000/tweets", **{"max_results": 5, **query})

    token = json.loads(page().body)["meta"]["next_token"]
    assert page(pagination_token=token).status == 200
    assert page(pagination_token=token, exclude="replies").status == 400
    assert page(pagination_token="p5").status == 400
    later = XApi(KEYS, x.people, clock=lambda: NOW.replace(hour=2))
    assert ask(later, "/2/users/1000/tweets", max_results=5, pagination_token=token).status == 400


def test_windows_of_the_rate_limit_are_true(x):
    times = {"now": NOW}
    x.clock, x.limits = lambda: times["now"], {("app", "users"): 2}
    answers = [ask(x, "/2/users/by", usernames="ada_airfield") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-rate-limit-remaining"] for answer in answers] == ["1", "0", "0"]
    reset = int(answers[2].headers["x-rate-limit-reset"])
    assert reset == int(NOW.timestamp()) + 900 and answers[2].headers["x-app-limit-24hour-limit"]
    times["now"] = datetime_of(reset)
    assert ask(x, "/2/users/by", usernames="ada_airfield").status == 200


def datetime_of(seconds):
    return NOW.fromtimestamp(seconds, NOW.tzinfo)


def test_a_post_is_charged_once_a_day_and_credits_end(x):
    for _ in range(2):
        ask(x, "/2/users/1000/tweets", max_results=5, **DAY)
    assert x.usd == 0.025
    x.credits_usd = 0.02
    assert ask(x, "/2/users/1000/tweets", **DAY).status == 402
    x.credits_usd, x.cap_posts = 100, 5
    assert ask(x, "/2/users/1000/tweets", **DAY).headers["x-rate-limit-remaining"] == "39999"
    assert ask(x, "/2/usage/tweets").status == 200
    assert ask(x, "/2/users/1000/tweets", token="wrong").status == 401


@pytest.mark.parametrize(("excluded", "count"), [("", 3200), ("replies", 800)])
def test_only_the_newest_posts_are_there(x, excluded, count):
    x.people = [Person("6", "tireless", posts_per_day=2000)]
    query, found = {"max_results": 100, **({"exclude": excluded} if excluded else {})}, 0
    while True:
        body = json.loads(ask(x, "/2/users/6/tweets", **query).body)
        found += len(body.get("data", []))
        if "next_token" not in body["meta"]:
            break
        query["pagination_token"] = body["meta"]["next_token"]
    assert found == count


def test_ids_win_over_times_and_are_exclusive(x):
    posts = x.people[0].posts(NOW.replace(day=1, hour=0, minute=0), NOW, 100)
    newest, oldest = posts[0]["id"], posts[-1]["id"]
    body = json.loads(ask(x, "/2/users/1000/tweets", since_id=oldest, until_id=newest, max_results=100, **DAY).body)
    assert [post["id"] for post in body["data"]] == [post["id"] for post in posts[1:-1]]


def test_one_dialect_refuses_the_other(x):
    x.dialect = "post"
    assert ask(x, "/2/users/1000/tweets", **{"tweet.fields": "lang"}).status == 400
    x.dialect = "mixed"
    body = json.loads(ask(x, "/2/users/1000/tweets", **{"post.fields": "public_metrics"}).body)
    assert "retweet_count" in body["data"][0]["public_metrics"]


def test_a_signature_counts_once_and_not_for_long(x, x_server, monkeypatch):
    """A request that somebody has overheard is worth nothing."""
    sent = []
    session = requests.Session()
    session.mount("http://", Elsewhere(x_server.address))
    session.auth = tweepy.OAuth1UserHandler(
        KEYS.consumer_key, KEYS.consumer_secret, KEYS.access_token, KEYS.access_token_secret
    ).apply_auth()
    session.hooks["response"].append(lambda response, **_: sent.append(response.request.headers["Authorization"]))
    url = f"{x_server.address}/2/users/1000/tweets"
    assert session.get(url, params={"max_results": 5}).status_code == 200
    header = {"Authorization": sent[0].decode() if isinstance(sent[0], bytes) else sent[0]}
    assert requests.get(url, params={"max_results": 5}, headers=header, timeout=5).status_code == 401
    monkeypatch.setattr("lab.x_api.oauth.SKEW_SECONDS", -1)
    assert session.get(url, params={"max_results": 5}).status_code == 401
