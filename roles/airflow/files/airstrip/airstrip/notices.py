"""Tell people what a run did not do: by mail, in Slack, through SNS, as the Airflow variable `failure_notices` says."""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

VARIABLE = "failure_notices"
REASON_CHARACTERS = 500


def notify_failure(context: dict[str, Any]) -> None:
    """The `on_failure_callback` of a DAG.

    The variable is a JSON object with any of: `mail`, addresses, sent by the connection smtp_default; `slack`,
    the id of a connection with an incoming webhook; `sns`, the ARN of a topic. A way that fails stops no other.
    """
    tell(context, *message(context))


def notify_missing(context: dict[str, Any], missing: list[str]) -> None:
    """Tell what a run that succeeded has left out, a line each."""
    if missing:
        run = context["dag_run"]
        subject = f"Airflow: {run.dag_id} left something out"
        tell(context, subject, [f"The run {run.run_id} of {run.dag_id} went well, but for:", *missing, address(run)])


def tell(context: dict[str, Any], subject: str, lines: list[str]) -> None:
    """Tell people in every way that the variable names."""
    from airflow.sdk import Variable

    try:
        ways = json.loads(Variable.get(VARIABLE, default="{}"))
        unknown = set(ways.keys()) - set(WAYS)
    except (AttributeError, TypeError, ValueError):
        log.error('%s is no JSON object such as {"mail": ["ops@example.com"]}: nobody was told', VARIABLE)
        return
    if unknown:
        log.error("%s has unknown ways: %s; use %s", VARIABLE, ", ".join(sorted(unknown)), ", ".join(WAYS))
    for way in WAYS.keys() & ways.keys():
        try:
            WAYS[way](ways[way], subject, lines).notify(context)
        except Exception:
            log.exception("the notice by %s failed", way)


def message(context: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the subject and the lines of a notice."""
    run = context["dag_run"]
    dag, run_id = run.dag_id, run.run_id
    failed = context.get("ti") or context.get("task_instance")
    lines = [f"The run {run_id} of {dag} failed."]
    if failed is not None:
        lines.append(f"Last failed task: {failed.task_id}, try {failed.try_number}.")
        lines += [f"Its log says: {said}" for said in reasons(failed)]
    return f"Airflow: {dag} failed", [*lines, address(run)]


def address(run: Any) -> str:
    """Return where a run is in the user interface."""
    from airflow.sdk import conf

    return f"{conf.get('api', 'base_url', fallback='').rstrip('/')}/dags/{run.dag_id}/runs/{run.run_id}"


def reasons(ti: Any) -> list[str]:
    """Return what the log of a failed try gives as its reason, secrets masked; nothing where no log is on this host.

    The runner's own words come first: a task killed for its memory sees only a signal.
    """
    from airflow.sdk import conf
    from airflow.utils.helpers import log_filename_template_renderer

    try:
        folder = Path(conf.get("logging", "base_log_folder"))
        lines = (folder / log_filename_template_renderer()(ti=ti)).read_text(errors="replace").splitlines()
        errors = [said for said in map(json.loads, lines) if said.get("level") in ("error", "critical")]
    except (OSError, ValueError, AttributeError):
        return []
    said = [error for error in errors if error.get("logger") == "airstrip"] or errors[-1:]
    return [_reason(error)[:REASON_CHARACTERS] for error in said]


def _reason(error: dict[str, Any]) -> str:
    """An error of a log, with its exception."""
    raised = [f"{one.get('exc_type')}: {one.get('exc_value')}" for one in error.get("error_detail") or []]
    return ": ".join([str(error.get("event")), *raised[:1]])


def _mail(addresses: list[str], subject: str, lines: list[str]) -> Any:
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    body = "<br>\n".join(html.escape(line) for line in lines)
    return SmtpNotifier(to=addresses, subject=subject, html_content=body)


def _slack(connection: str, subject: str, lines: list[str]) -> Any:
    from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier

    return SlackWebhookNotifier(slack_webhook_conn_id=connection, text="\n".join([f"*{subject}*", *lines]))


def _sns(topic: str, subject: str, lines: list[str]) -> Any:
    from airflow.providers.amazon.aws.notifications.sns import SnsNotifier

    return SnsNotifier(aws_conn_id=None, target_arn=topic, subject=subject, message="\n".join(lines))


WAYS: dict[str, Callable[[Any, str, list[str]], Any]] = {"mail": _mail, "slack": _slack, "sns": _sns}
