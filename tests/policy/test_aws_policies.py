"""The policies that AWS gets, as the templates render them."""

import json
from pathlib import Path

import parliament
import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

TEMPLATES = Path(__file__).parents[2] / "roles/aws/templates"
VARIABLES = {
    "aws_bucket": "my-bucket",
    "aws_bucket_backup_prefix": "backup/",
    "aws_bucket_prefixes": ["curated/", "raw/x/"],
    "aws_kms_keys": [],
    "aws_region": "eu-central-1",
    "aws_secrets_backend": "none",
    "aws_session_manager": "false",
    "aws_cloudwatch_namespace": "",
    "aws_sns_topics": [],
    "__aws_partition": "aws",
    "__aws_caller": {"account": "123456789012"},
}


def render(name: str, **variables: str) -> dict:
    templar = Templar(DataLoader(), variables=VARIABLES | variables)
    text = templar.template(trust_as_template((TEMPLATES / name).read_text()))
    return json.loads(text) if isinstance(text, str) else text


def findings(document: dict) -> list[str]:
    return [str(finding) for finding in parliament.analyze_policy_string(json.dumps(document)).findings]


@pytest.mark.parametrize("backend", ["none", "parameter-store", "secrets-manager"])
def test_the_roles_policy_has_no_fault_that_parliament_knows(backend):
    assert findings(render("role-policy.json.j2", aws_secrets_backend=backend)) == []


def test_the_role_sends_figures_to_its_namespace_alone():
    document = render("role-policy.json.j2", aws_cloudwatch_namespace="Airstrip")
    (sends,) = [statement for statement in document["Statement"] if statement["Action"] == "cloudwatch:PutMetricData"]
    assert sends["Condition"] == {"StringEquals": {"cloudwatch:namespace": "Airstrip"}}


def test_the_role_publishes_to_the_named_topics_alone():
    topic = "arn:aws:sns:eu-central-1:123456789012:pager"
    document = render("role-policy.json.j2", aws_sns_topics=[topic])
    assert findings(document) == []
    publish = [statement for statement in document["Statement"] if statement["Action"] == "sns:Publish"]
    assert [statement["Resource"] for statement in publish] == [[topic]]


def test_the_role_marks_backups_as_deleted_and_removes_no_version():
    document = render("role-policy.json.j2")
    allowed = [
        action for statement in document["Statement"] for action in [statement["Action"]] if "Delete" in str(action)
    ]
    assert allowed == ["s3:DeleteObject"]
    (expire,) = [statement for statement in document["Statement"] if statement["Action"] == "s3:DeleteObject"]
    assert expire["Resource"] == "arn:aws:s3:::my-bucket/backup/*"


def test_the_buckets_policy_has_none_either():
    # The trust policy is exempt: parliament wants a resource in each statement, and such a policy has none.
    assert findings(render("bucket-policy.json.j2")) == []


def test_parliament_would_find_a_misspelt_action():
    document = render("role-policy.json.j2")
    document["Statement"][0]["Action"].append("s3:PutObjekt")
    assert findings(document)


def test_the_role_names_no_other_bucket_and_no_wildcard():
    document = render("role-policy.json.j2")
    objects, _, listing = document["Statement"]
    folders = ["curated/*", "raw/x/*", "backup/*"]
    assert objects["Resource"] == [f"arn:aws:s3:::my-bucket/{folder}" for folder in folders]
    assert listing["Resource"] == "arn:aws:s3:::my-bucket"
    assert listing["Condition"] == {"StringLike": {"s3:prefix": folders}}
    assert not [action for action in objects["Action"] if "*" in action or "Delete" in action]


@pytest.mark.parametrize(
    ("backend", "resource"),
    [
        ("parameter-store", "arn:aws:ssm:eu-central-1:123456789012:parameter/airflow/*"),
        ("secrets-manager", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:airflow/*"),
    ],
)
def test_secrets_are_read_below_airflow_only(backend, resource):
    document = render("role-policy.json.j2", aws_secrets_backend=backend)
    assert [each["Resource"] for each in document["Statement"] if each["Sid"] == "ReadSecrets"] == [resource]


def test_the_bucket_refuses_all_without_tls():
    (statement,) = render("bucket-policy.json.j2")["Statement"]
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert set(statement["Resource"]) == {"arn:aws:s3:::my-bucket", "arn:aws:s3:::my-bucket/*"}


def test_only_ec2_may_take_the_role():
    (statement,) = render("trust-policy.json.j2")["Statement"]
    assert statement["Principal"] == {"Service": "ec2.amazonaws.com"}
