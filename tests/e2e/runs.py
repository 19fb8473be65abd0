"""Runs of DAGs, begun and watched through the API, and what they leave: objects on S3 and mails."""

from __future__ import annotations

import email
import email.policy
from datetime import UTC, date, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from lab import services
from lab.settings import BUCKET
from tests.server import wait_until

TODAY = datetime.now(UTC).date()


def unpause(server, api, dag: str) -> None:
    """Unpause a DAG."""
    _set_paused(server, api, dag, False)


def pause(server, api, dag: str) -> None:
    """Pause a DAG."""
    _set_paused(server, api, dag, True)


def _set_paused(server, api, dag: str, paused: bool) -> None:
    answer = api.patch(f"{server.url}/api/v2/dags/{dag}", json={"is_paused": paused})
    assert answer.status_code == 200, answer.text


def start(server, api, dag: str, day: date, second: int = 0, **conf: Any) -> str:
    """Start a run for one day; return its id. Another run for that day begins at another second."""
    end = f"{day + timedelta(days=1)}T00:00:00Z"
    interval = {"data_interval_start": f"{day}T00:00:00Z", "data_interval_end": end}
    body = {"logical_date": end.replace(":00Z", f":{second:02}Z"), **interval, "conf": conf}
    answer = api.post(f"{server.url}/api/v2/dags/{dag}/dagRuns", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["dag_run_id"]


def wait(server, api, dag: str, run: str, wanted: str, seconds: int = 300) -> None:
    """Wait until a run is in a state. One that begins at midnight comes after the daily one."""
    url = f"{server.url}/api/v2/dags/{dag}/dagRuns/{run}"

    def problem() -> str:
        states = {task["task_id"]: task["state"] for task in instances(server, api, dag, run)}
        return f"{run} is not {wanted}: {states}"

    def ended() -> bool:
        state = api.get(url).json()["state"]
        assert state not in {"success", "failed"} - {wanted}, problem()
        return state == wanted

    wait_until(ended, seconds, problem, every=1)


def instances(server, api, dag: str, run: str) -> list[dict]:
    """Return what the API says of a run's tasks."""
    url = f"{server.url}/api/v2/dags/{dag}/dagRuns/{run}/taskInstances"
    return api.get(url).json()["task_instances"]


def wait_for_task(server, api, dag: str, run: str, task: str, wanted: str, seconds: int = 180) -> None:
    """Wait until a task is in a state."""

    def states() -> dict[str, str]:
        return {found["task_id"]: found["state"] for found in instances(server, api, dag, run)}

    wait_until(lambda: states().get(task) == wanted, seconds, lambda: f"{task} is not {wanted}: {states()}", every=1)


def clear(server, api, dag: str, run: str, **wanted: Any) -> None:
    """Clear a run's tasks, by default all of them."""
    body = {"dry_run": False, "only_failed": False, "dag_run_id": run, "include_downstream": True, **wanted}
    answer = api.post(f"{server.url}/api/v2/dags/{dag}/clearTaskInstances", json=body)
    assert answer.status_code == 200, answer.text


def text(server, key: str) -> str:
    """Read an object."""
    return server.aws("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()


def keys(server, prefix: str) -> list[str]:
    """Return the keys below a prefix."""
    listing = server.aws("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [entry["Key"] for page in listing for entry in page.get("Contents", [])]


def read(path: Path) -> EmailMessage:
    """Read a mail."""
    return email.message_from_bytes(path.read_bytes(), policy=email.policy.default)


def mails(server, words: str) -> list[EmailMessage]:
    """Return the mails that came and have some words in their text, oldest first."""
    paths = sorted(services.mail.folder(server.lab).glob("*"), key=lambda path: path.stat().st_mtime)
    return [mail for mail in map(read, paths) if words in mail.get_body(("plain", "html")).get_content()]


def wait_for_mails(server, words: str, count: int = 1, seconds: int = 60) -> list[EmailMessage]:
    """Wait for so many mails with some words in their text."""
    wait_until(lambda: len(mails(server, words)) >= count, seconds, f"{count} mails about {words}", every=1)
    return mails(server, words)
