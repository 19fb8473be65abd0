"""Who is told that a run failed, and by which of the official notifiers."""

import json
from types import SimpleNamespace

import pytest
from airflow.providers.amazon.aws.notifications.sns import SnsNotifier
from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier
from airflow.providers.smtp.notifications.smtp import SmtpNotifier

from airstrip import notices

CONTEXT = {
    "dag_run": SimpleNamespace(dag_id="twitter", run_id="manual <1>"),
    "ti": SimpleNamespace(task_id="publish", try_number=2),
}
WAYS = {"mail": ["ops@example.com"], "slack": "pager", "sns": "arn:aws:sns:eu-central-1:123456789012:pager"}


@pytest.fixture
def told(monkeypatch):
    sent = {}
    for notifier in (SmtpNotifier, SlackWebhookNotifier, SnsNotifier):
        monkeypatch.setattr(notifier, "notify", lambda self, context: sent.update({type(self).__name__: self}))

    def tell(variable):
        monkeypatch.setenv("AIRFLOW_VAR_FAILURE_NOTICES", variable)
        notices.notify_failure(CONTEXT)
        return sent

    return tell


def test_all_ways_tell_which_run_and_task(told):
    sent = told(json.dumps(WAYS))
    assert sent["SmtpNotifier"].to == ["ops@example.com"]
    assert (
        "manual &lt;1&gt;" in sent["SmtpNotifier"].html_content
        and "publish, try 2" in sent["SmtpNotifier"].html_content
    )
    assert sent["SlackWebhookNotifier"].slack_webhook_conn_id == "pager"
    assert sent["SnsNotifier"].target_arn == WAYS["sns"] and "/dags/twitter/runs/" in sent["SnsNotifier"].message


def test_without_the_variable_nobody_is_told(told):
    assert told("{}") == {}


def test_a_way_that_fails_stops_no_other(told, monkeypatch, caplog):
    def fail(self, context):
        raise OSError("no route")

    monkeypatch.setattr(SmtpNotifier, "notify", fail)
    assert set(told(json.dumps(WAYS))) == {"SlackWebhookNotifier", "SnsNotifier"}
    assert "the notice by mail failed" in caplog.text


@pytest.mark.parametrize(
    ("variable", "words"),
    [("ops@example.com", "no JSON object"), ('["mail"]', "no JSON object"), ('{"pigeon": 1}', "unknown ways: pigeon")],
)
def test_a_wrong_variable_is_said_in_the_log(told, caplog, variable, words):
    assert told(variable) == {} and words in caplog.text
