"""What the pipeline asks and the stand-in answers, held against X's own description of both sets of field names."""

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from etl import twitter_etl
from etl.storage import Storage
from lab.settings import USERNAMES
from lab.x_api.people import Person, written
from tests.unit.x_day import DAY, START

# It is not part of the project.
DESCRIPTIONS = Path(__file__).parents[3] / "shared" / "x_openapi"


@pytest.fixture(params=[("tweet", "2.166"), ("post", "2.167")], ids=["older", "newer"])
def asked(request, x, client, storage):
    """A dialect's description, and each request that a collected day made with X's answer."""
    x.dialect, version = request.param
    path = DESCRIPTIONS / f"{version}.json"
    if not path.exists():
        pytest.skip(f"X's description is not at hand: {path.name} belongs into {DESCRIPTIONS.name}/ beside the project")
    person = Person("7", "echo", posts_per_day=101)
    original = written(Person("99", "eve"), START, "Said first.")
    for second, more in enumerate([{"referenced": original}, {"gone": ["123"]}]):
        said = written(person, START + timedelta(hours=1, seconds=second), "RT @eve: Said")
        number = more.get("gone", [original["id"]])[0]
        person.written.append({**said, "referenced_tweets": [{"type": "retweeted", "id": number}], **more})
    x.people += [person, Person("8", "shy", status="protected"), Person("9", "gone", status="suspended")]
    collected, answer = [], x.answer
    x.answer = lambda address, target, headers: collected.append(found := answer(address, target, headers)) or found
    collect(client, storage, [*USERNAMES, "echo", "shy", "gone", "nobody"])
    return json.loads(path.read_text()), list(zip(x.log, collected, strict=True))


def collect(client, storage: Storage, names):
    users = twitter_etl.resolve_users(client, storage, names, DAY)
    for user in users:
        twitter_etl.extract(client, storage, user, DAY)


def operation(description, path):
    template = "/2/users/{id}/tweets" if re.fullmatch(r"/2/users/\d+/tweets", path) else path
    return description["paths"][template]["get"]


def resolved(description, node):
    """The same without references; X's description has no circle in what is asked here."""
    if isinstance(node, dict) and "$ref" in node:
        target = description
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return resolved(description, target)
    if isinstance(node, dict):
        return {key: resolved(description, value) for key, value in node.items()}
    return [resolved(description, value) for value in node] if isinstance(node, list) else node


def test_what_is_asked_is_described(asked):
    description, exchanged = asked
    for entry, _ in exchanged:
        parameters = {
            one["name"]: one["schema"]
            for one in resolved(description, operation(description, entry["path"])["parameters"])
        }
        assert entry["query"].keys() <= parameters.keys()
        for name, value in entry["query"].items():
            schema = parameters[name]
            given = (
                value.split(",")
                if schema.get("type") == "array"
                else int(value)
                if schema.get("type") == "integer"
                else value
            )
            assert not list(Draft7Validator(schema).iter_errors(given)), (name, value)


def test_what_is_answered_is_described(asked):
    description, exchanged = asked
    for entry, answer in exchanged:
        content = operation(description, entry["path"])["responses"]["200"]["content"]["application/json"]
        body = json.loads(answer.body)
        found = [error.message for error in Draft7Validator(resolved(description, content["schema"])).iter_errors(body)]
        assert answer.status == 200 and not found, (entry["path"], found[:3])
