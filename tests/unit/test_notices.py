"""Who is told that a run failed, and by which of the official notifiers."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import boto3
import pytest
from airflow.providers.amazon.aws.notifications.sns import SnsNotifier
from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from moto.server import ThreadedMotoServer

from airstrip import notices

CONTEXT = {
    "dag_run": SimpleNamespace(dag_id="twitter", run_id="manual <1>"),
    "ti": SimpleNamespace(dag_id="twitter", run_id="manual <1>", task_id="publish", map_index=-1, try_number=2),
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
def test_a_wrong_variable_is_logged(told, caplog, variable, words):
    assert told(variable) == {} and words in caplog.text


@pytest.fixture
def webhook():
    """A server that keeps what is posted to it."""
    posted = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/services", posted
    server.shutdown()


@pytest.fixture
def topic(monkeypatch):
    """A topic of SNS, and a queue that gets what is published to it."""
    for name, value in {"ACCESS_KEY_ID": "any", "SECRET_ACCESS_KEY": "any", "DEFAULT_REGION": "eu-central-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    sns, sqs = boto3.client("sns"), boto3.client("sqs")
    arn, queue = sns.create_topic(Name="pager")["TopicArn"], sqs.create_queue(QueueName="pager")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=attributes["QueueArn"])
    yield arn, lambda: [json.loads(one["Body"]) for one in sqs.receive_message(QueueUrl=queue).get("Messages", [])]
    server.stop()


def test_slack_and_sns_get_it(webhook, topic, monkeypatch):
    """What the official notifiers send, received."""
    (address, posted), (arn, received) = webhook, topic
    slack = {"conn_type": "slackwebhook", "host": address, "password": "T/B/X"}
    monkeypatch.setenv("AIRFLOW_CONN_PAGER", json.dumps(slack))
    monkeypatch.setenv("AIRFLOW_VAR_FAILURE_NOTICES", json.dumps({"slack": "pager", "sns": arn}))
    notices.notify_failure(CONTEXT)
    ((path, message),) = posted
    assert path == "/services/T/B/X" and message["text"].startswith("*Airflow: twitter failed*\nThe run manual <1>")
    (published,) = received()
    assert published["Subject"] == "Airflow: twitter failed" and "publish, try 2" in published["Message"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    {
        "an exception": (
            [
                {"level": "error", "event": "an older one"},
                {
                    "level": "error",
                    "event": "Task failed with exception",
                    "error_detail": [{"exc_type": "ValueError", "exc_value": "no such column"}],
                },
                {"level": "info", "event": "Task finished"},
            ],
            "Task failed with exception: ValueError: no such column",
        ),
        "the runner": (
            [
                {"level": "error", "event": "Ended by the runner: the task held 700 MB", "logger": "airstrip"},
                {"level": "error", "event": "Process terminated by signal", "logger": "task"},
            ],
            "Ended by the runner: the task held 700 MB",
        ),
    }.values(),
    ids=["an exception", "the runner"],
)
def test_the_notice_names_the_reason(tmp_path, monkeypatch, lines, reason):
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(tmp_path))
    log = tmp_path / "dag_id=twitter/run_id=manual <1>/task_id=publish/attempt=2.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert notices.message(CONTEXT)[1][2] == f"Its log says: {reason}"


def test_a_remote_log_withholds_no_notice():
    assert [line for line in notices.message(CONTEXT)[1] if "log" in line] == []
