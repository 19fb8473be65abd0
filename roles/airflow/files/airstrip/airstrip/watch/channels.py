"""How a message reaches a person: mail, Slack, SNS, any webhook."""

from __future__ import annotations

import json
import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SECONDS = 20
# What sends to SNS needs boto3.
SNS = ("/opt/airflow/venv/bin/python", "-P", str(Path(__file__).with_name("sns.py")))
Send = Callable[[str, str], None]


def channels(given: dict[str, Any]) -> Iterator[tuple[str, Send]]:
    """Yield each channel that is set, by its name, with what sends a title and a text. It raises OSError."""
    if given["mail_to"]:
        yield "mail", lambda title, text: mail(given, title, text)
    if given["slack_webhook"]:
        yield "slack", lambda title, text: post(given["slack_webhook"], {"text": f"*{title}*\n{text}"})
    if given["webhook"]:
        yield "webhook", lambda title, text: post(given["webhook"], {"title": title, "text": text})
    if given["sns_topic"]:
        yield "sns", lambda title, text: publish(given["sns_topic"], title, text)


def mail(given: dict[str, Any], title: str, text: str) -> None:
    """Send a mail with the settings of an Airflow connection to a mail server, over TLS unless that says otherwise."""
    # Most looks of the watch send nothing.
    import smtplib
    from email.message import EmailMessage

    server, extra = given["mail_server"], given["mail_server"].get("extra", {})
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = extra["from_email"], ", ".join(given["mail_to"]), title
    message.set_content(text)
    context = ssl.create_default_context()
    starts_plain = extra.get("disable_ssl", False)
    kind: Any = smtplib.SMTP if starts_plain else smtplib.SMTP_SSL
    options = {} if starts_plain else {"context": context}
    port = int(server.get("port", 0)) or (587 if starts_plain else 465)
    with kind(server["host"], port, timeout=SECONDS, **options) as connection:
        if starts_plain and not extra.get("disable_tls", False):
            connection.starttls(context=context)
        if server.get("login"):
            connection.login(server["login"], server["password"])
        connection.send_message(message)


def post(address: str, body: dict[str, str]) -> None:
    """Send JSON to an address."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    urllib.request.urlopen(request, timeout=SECONDS).close()


def publish(topic: str, title: str, text: str) -> None:
    """Publish on a topic of SNS, with the role of the instance."""
    body = json.dumps({"topic": topic, "title": title, "text": text})
    done = subprocess.run(SNS, input=body, text=True, capture_output=True, check=False, timeout=3 * SECONDS)
    if done.returncode:
        raise OSError(done.stderr.strip().splitlines()[-1])


def beat(address: str) -> None:
    """Tell a watcher elsewhere that this host is still watched: its silence is the alarm."""
    urllib.request.urlopen(address, timeout=SECONDS).close()
