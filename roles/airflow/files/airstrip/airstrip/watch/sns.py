"""Publish what standard input says on a topic of SNS: {"topic": …, "title": …, "text": …}."""

from __future__ import annotations

import json
import sys

import boto3

message = json.load(sys.stdin)
# arn:aws:sns:REGION:ACCOUNT:NAME
region = message["topic"].split(":")[3]
# A subject has at most 100 characters of ASCII.
subject = message["title"].encode("ascii", "replace").decode()[:100]
boto3.client("sns", region_name=region).publish(TopicArn=message["topic"], Subject=subject, Message=message["text"])
