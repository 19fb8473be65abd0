"""What the role of the instance reaches in the account, and what strangers do."""

from __future__ import annotations

import pytest
import requests

from lab import services
from lab.settings import BUCKET
from tests.e2e.visitors import with_role

# Runs on the host with what boto3 finds there by itself.
REACH = """
import boto3, sys
from botocore.exceptions import ClientError
session = boto3.Session()
print("method", session.get_credentials().method)
s3 = session.client("s3")
calls = {
    "write inside": lambda: s3.put_object(Bucket="BUCKET", Key="curated/test", Body=b"x"),
    "read inside": lambda: s3.get_object(Bucket="BUCKET", Key="curated/test"),
    "list inside": lambda: s3.list_objects_v2(Bucket="BUCKET", Prefix="curated/"),
    "write outside": lambda: s3.put_object(Bucket="BUCKET", Key="elsewhere/test", Body=b"x"),
    "list outside": lambda: s3.list_objects_v2(Bucket="BUCKET", Prefix=""),
    "delete inside": lambda: s3.delete_object(Bucket="BUCKET", Key="curated/test"),
    "write to another": lambda: s3.put_object(Bucket="airstrip-other", Key="curated/test", Body=b"x"),
    "loosen the policy": lambda: s3.delete_bucket_policy(Bucket="BUCKET"),
    "start machines": lambda: session.client("ec2").describe_instances(),
    "widen itself": lambda: session.client("sts", endpoint_url="STORE").assume_role(
        RoleArn="arn:aws:iam::123456789012:role/instance", RoleSessionName="wider"),
    "read secrets": lambda: session.client("ssm").get_parameter(Name="/airflow/connections/x_api"),
}
for name, call in calls.items():
    try:
        call()
        print(name, "allowed")
    except ClientError as error:
        print(name, error.response["Error"]["Code"])
"""


@pytest.mark.door(16)
def test_the_role_reaches_its_prefix_and_nothing_else(server):
    program = REACH.replace("BUCKET", BUCKET).replace("STORE", services.s3.endpoint(server.lab))
    server.aws("s3").create_bucket(
        Bucket="airstrip-other", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    try:
        answers = with_role(server, program)
    finally:
        server.aws("s3").delete_bucket(Bucket="airstrip-other")
    said = dict(line.rsplit(" ", 1) for line in answers.splitlines())
    assert said.pop("method") == "iam-role"
    allowed = {"write inside", "read inside", "list inside"}
    assert {name for name, answer in said.items() if answer == "allowed"} == allowed
    refusals = ("AccessDenied", "UnauthorizedOperation")
    assert all(answer.startswith(refusals) for name, answer in said.items() if name not in allowed), said


@pytest.mark.door(17)
def test_a_stranger_reads_nothing_from_the_bucket(server):
    store, web = services.s3.endpoint(server.lab), server.session()
    server.aws("s3").put_object(Bucket=BUCKET, Key="curated/test", Body=b"x")
    for path in (f"{BUCKET}/curated/test", f"{BUCKET}?list-type=2", ""):
        assert web.get(f"{store}/{path}").status_code == 403, path
    assert requests.get(store.replace("https:", "http:"), timeout=30).status_code == 400


def test_no_aws_key_is_on_the_host(server):
    tasks = server.run("cat /etc/airflow/secrets/tasks.env")
    assert "AWS_ENDPOINT_URL_S3" in tasks and "AWS_ACCESS_KEY_ID" not in tasks and "AWS_SECRET" not in tasks
    assert server.run("ls -d /root/.aws /home/*/.aws /var/lib/airflow*/.aws 2>/dev/null; true") == ""
