"""How a task comes back: an error of `etl` says whether it may be tried again, and when."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import RetryDecision, RetryPolicy, get_current_context
from airflow.sdk.exceptions import AirflowRescheduleException

# A task that has waited longer fails, and people are told.
LONGEST_WAIT = timedelta(hours=48)

log = logging.getLogger(__name__)


class EtlRetryPolicy(RetryPolicy):
    """Fail at once where only another setting, another file or a person helps."""

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        from airflow.providers.standard.exceptions import HITLTimeoutError

        from etl.errors import PermanentError

        if isinstance(exception, (PermanentError, HITLTimeoutError)):
            return RetryDecision.fail(str(exception))
        return RetryDecision.default()


@contextmanager
def coming_back() -> Iterator[None]:
    """Have a task come back when its error says so, which costs no retry and holds no slot."""
    from etl.errors import TemporaryError

    try:
        yield
    except TemporaryError as error:
        context = get_current_context()
        first = context["ti"].get_first_reschedule_date(context)
        if error.seconds is None or (first and datetime.now(UTC) - first > LONGEST_WAIT):
            raise
        log.warning("%s", error)
        raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=error.seconds)) from error
