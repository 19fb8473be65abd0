"""The mail that people read: text beside HTML, pictures within it, sent through the provider's own hook."""

import email
import email.policy
import json
import smtplib
from email.message import EmailMessage

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airstrip.mail import ReportEmailOperator


@pytest.fixture
def sent(monkeypatch):
    """What a mail server is given: senders, recipients and messages."""
    taken: list[tuple[str, list[str], str]] = []

    class Server:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def sendmail(self, from_addr: str, to_addrs: list[str], msg: str) -> dict[str, tuple[int, bytes]]:
            refused = {to: (550, b"No such user") for to in to_addrs if to.startswith("typo")}
            if refused.keys() == set(to_addrs):
                raise smtplib.SMTPRecipientsRefused(refused)
            taken.append((from_addr, to_addrs, msg))
            return refused

        def close(self) -> None:
            pass

    monkeypatch.setattr(smtplib, "SMTP", Server)
    extra = {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@lab"}
    connection = {"conn_type": "smtp", "host": "mail.lab", "port": 25, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
    return taken


def operator(**changes) -> ReportEmailOperator:
    given = {
        "task_id": "mail",
        "to": "ceo@lab, cfo@lab",
        "subject": "Bericht für Köln",
        "html_content": '<p>Zürich</p><img src="cid:days.png">',
        "text_content": "Zürich",
    }
    return ReportEmailOperator(**{**given, **changes})


def message(text: str) -> EmailMessage:
    return email.message_from_string(text, policy=email.policy.default)


def test_a_reader_without_html_has_the_text_and_another_the_pictures(sent, tmp_path):
    picture = tmp_path / "days.png"
    picture.write_bytes(b"\x89PNG picture")
    operator(pictures=[str(picture)], custom_headers={"Message-ID": "<a@airstrip>"}).execute({})
    ((sender, recipients, text),) = sent
    assert (sender, recipients) == ("airflow@lab", ["ceo@lab", "cfo@lab"])
    mail = message(text)
    assert [part.get_content_type() for part in mail.walk()] == [
        *["multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png"]
    ]
    assert (mail["subject"], mail["message-id"]) == ("Bericht für Köln", "<a@airstrip>")
    assert mail.get_body(("plain",)).get_content().strip() == "Zürich"
    assert "Zürich" in mail.get_body(("html",)).get_content()
    (shown,) = (part for part in mail.walk() if part.get_content_type() == "image/png")
    assert shown["content-id"] == "<days.png>" and shown.get_content() == b"\x89PNG picture"
    assert shown.get_content_disposition() == "inline"


def test_a_mail_without_pictures_is_one_too(sent):
    operator().execute({})
    assert message(sent[0][2]).get_body(("html",)) is not None


def test_refused_recipients_are_named_and_the_others_are_not_mailed_again(sent):
    with pytest.raises(AirflowFailException, match=r"refused \{'typo@lab': \(550.*all others have the mail"):
        operator(to="ceo@lab, typo@lab").execute({})
    assert len(sent) == 1


def test_a_server_that_takes_nothing_is_tried_again(sent):
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        operator(to="typo@lab").execute({})
    assert sent == []


def test_a_mail_to_nobody_is_not_tried_again(sent):
    with pytest.raises(AirflowFailException, match="no recipient"):
        operator(to="").execute({})
    assert sent == []


def test_what_is_told_apart_by_run_is_a_template():
    assert {"text_content", "pictures", "to", "subject", "html_content"} <= set(ReportEmailOperator.template_fields)
