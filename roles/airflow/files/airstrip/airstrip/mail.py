"""EmailOperator for what people read: a text part beside the HTML, and pictures within it."""

from __future__ import annotations

from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

from airflow.providers.smtp.hooks.smtp import SmtpHook
from airflow.providers.smtp.operators.smtp import EmailOperator
from airflow.sdk import ObjectStoragePath
from airflow.sdk.exceptions import AirflowFailException


class ReportEmailOperator(EmailOperator):
    """Send a mail in HTML and in text.

    `text_content` is what a reader without HTML is shown; `pictures` are addresses (s3://… or files) of PNGs, each
    shown where the HTML has `<img src="cid:NAME">` with the last part of its address. Both are templated.
    """

    template_fields = (*EmailOperator.template_fields, "text_content", "pictures")

    def __init__(self, *, text_content: str, pictures: Any = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.text_content = text_content
        self.pictures = pictures

    def execute(self, context: Any) -> None:
        """Send it. Raises smtplib.SMTPException where the server refuses it; fails where it refuses some people."""
        if not self.to:
            raise AirflowFailException("the mail has no recipient")
        pictures = [ObjectStoragePath(address) for address in self.pictures]
        with _Hook(self.conn_id, self.text_content, {path.name: path.read_bytes() for path in pictures}) as hook:
            refused = hook.listen()
            hook.send_email_smtp(
                to=self.to,
                cc=self.cc,
                bcc=self.bcc,
                subject=self.subject,
                from_email=self.from_email,
                html_content=self.html_content,
                custom_headers=self.custom_headers,
            )
        if refused:
            raise AirflowFailException(
                f"the mail server refused {refused}; all others have the mail. Correct the address and clear the task, "
                "which sends it to everybody again"
            )


class _Hook(SmtpHook):
    """Builds the message itself; the connection, its security and its retries are the provider's."""

    def __init__(self, connection: str, text: str, pictures: dict[str, bytes]) -> None:
        super().__init__(smtp_conn_id=connection)
        self.text, self.pictures = text, pictures

    def listen(self) -> dict[str, Any]:
        """Return what will hold the recipients whom the server refuses, while it takes the mail for others."""
        refused: dict[str, Any] = {}
        send = self._smtp_client.sendmail
        self._smtp_client.sendmail = lambda **mail: refused.update(send(**mail) or {})
        return refused

    def _build_mime_message(self, *args: Any, html_content: str, **kwargs: Any) -> tuple[EmailMessage, list[str]]:
        plain, recipients = super()._build_mime_message(*args, html_content=html_content, **kwargs)
        message = EmailMessage(SMTP)
        for name, value in plain.items():
            if name not in ("Content-Type", "MIME-Version"):
                message[name] = value
        message.set_content(self.text)
        message.add_alternative(html_content, subtype="html")
        for name, content in self.pictures.items():
            message.get_payload()[1].add_related(
                content, "image", "png", cid=f"<{name}>", filename=name, disposition="inline"
            )
        return message, recipients
