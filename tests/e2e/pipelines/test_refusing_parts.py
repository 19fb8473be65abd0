"""Each part that the daily report needs refuses, is slow or goes away: what is tried again, and what stops the run."""

from __future__ import annotations

import pytest

from lab import services
from lab.run import stop
from lab.settings import BUCKET
from lab.shop import database
from tests import expected_sales
from tests.e2e.reports import DAG, failed, fault, like, log_says, sales
from tests.e2e.runs import clear, mails, start, wait, wait_for_task
from tests.server import wait_until


@pytest.mark.long
def test_any_dependency_may_fail_and_the_task_is_retried(server, api):
    """In one run: the API is down, then it answers with HTML; orders, S3 and warehouse refuse; the mail server is
    away, then it refuses the login, then the mail."""
    day, lab = like(2, 42), server.lab
    database.deliver(lab, BUCKET, day)
    fault(server, "down")
    database.psql(lab, f"alter role {database.READER} nologin")
    server.sql("alter role warehouse nologin")
    stop(services.mail.pid_file(lab))
    try:
        run = start(server, api, DAG, day)
        wait_for_task(server, api, DAG, run, "fetch_rates", "up_for_retry")
        wait_for_task(server, api, DAG, run, "extract_orders", "up_for_retry")
        log_says(server, run, "fetch_rates", "503:")
        log_says(server, run, "extract_orders", "is not permitted to log in")
        fault(server, "html")
        clear(server, api, DAG, run, task_ids=["fetch_rates"])
        wait_for_task(server, api, DAG, run, "fetch_rates", "up_for_retry")
        log_says(server, run, "fetch_rates", "exchange rates is no JSON .*Sign in")
        fault(server, None)
        database.psql(lab, f"alter role {database.READER} login")
        stop(services.s3.pid_file(lab))
        clear(server, api, DAG, run, task_ids=["extract_orders"])
        wait_for_task(server, api, DAG, run, "extract_orders", "up_for_retry")
        log_says(server, run, "extract_orders", "Could not connect to the endpoint URL")
        services.s3.up(lab)
        clear(server, api, DAG, run, task_ids=["fetch_rates", "extract_orders"])
        wait_for_task(server, api, DAG, run, "load.create", "up_for_retry")
        log_says(server, run, "load.create", "is not permitted to log in")
        server.sql("alter role warehouse login")
        assert sales(server, day) == []
        clear(server, api, DAG, run, task_ids=["load.create"])
        wait_for_task(server, api, DAG, run, "send_mail", "up_for_retry")
        log_says(server, run, "send_mail", "Connection refused")
        services.mail.up(lab, login="somebody-else")
        clear(server, api, DAG, run, task_ids=["send_mail"])
        wait_for_task(server, api, DAG, run, "send_mail", "up_for_retry")
        log_says(server, run, "send_mail", "535")
        stop(services.mail.pid_file(lab))
        services.mail.up(lab, largest_mail=1000)
        clear(server, api, DAG, run, task_ids=["send_mail"])
        wait_for_task(server, api, DAG, run, "send_mail", "up_for_retry")
        log_says(server, run, "send_mail", "552")
    finally:
        fault(server, None)
        database.psql(lab, f"alter role {database.READER} login")
        server.sql("alter role warehouse login")
        services.s3.up(lab)
        stop(services.mail.pid_file(lab))
        services.mail.up(lab)
    assert mails(server, f"Daily report {day}") == []
    clear(server, api, DAG, run, task_ids=["send_mail"])
    wait(server, api, DAG, run, "success")
    assert sales(server, day) == expected_sales.sales(day, 2)
    assert len(mails(server, f"Daily report {day}")) == 1


@pytest.mark.long
def test_the_warehouse_is_slow_then_it_goes_away_between_staging_and_publication(server, api):
    """Somebody locks the table: the run waits, and if the connection is lost meanwhile the day stays whole."""
    day = like(2, 57)
    database.deliver(server.lab, BUCKET, day)
    hold = "begin; lock table sales in exclusive mode; select pg_sleep(3600)"
    server.run(f"systemd-run --quiet --unit=hold runuser -u postgres -- psql -qd warehouse -c '{hold}'")
    waiting = "from pg_stat_activity where wait_event_type = 'Lock' and query like 'lock table public.sales%'"
    try:
        run = start(server, api, DAG, day)
        wait_until(
            lambda: server.sql(f"select count(*) {waiting}", "warehouse").strip() == "1", 180, "nobody publishes"
        )
        assert sales(server, day) == []
        server.sql(f"select pg_terminate_backend(pid) {waiting}", "warehouse")
        wait_for_task(server, api, DAG, run, "load.publish", "up_for_retry")
        log_says(server, run, "load.publish", "terminating connection")
    finally:
        server.sql("select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(3600)'")
    assert sales(server, day) == [] and mails(server, f"Daily report {day}") == []
    clear(server, api, DAG, run, task_ids=["load.publish"])
    wait(server, api, DAG, run, "success")
    assert sales(server, day) == expected_sales.sales(day, 2)
    assert len(mails(server, f"Daily report {day}")) == 1


@pytest.mark.long
def test_one_bad_recipient_is_named_and_the_others_get_mail(server, api):
    day = like(2, 63)
    database.deliver(server.lab, BUCKET, day)
    run = start(server, api, DAG, day, recipients=["management@lab", "unknown@lab"])
    wait(server, api, DAG, run, "failed")
    assert failed(server, api, run)["send_mail"] == 1
    log_says(server, run, "send_mail", "the mail server refused .*unknown@lab.*550.*all others have the mail")
    assert len(mails(server, f"Daily report {day}")) == 1


# The first sale online never arrives in a staging table.
LOSE = """
create function lose() returns trigger language plpgsql as $$ begin
  return case when new.sale_id like '%-01' then null else new end;
end $$;
create function spoil() returns event_trigger language plpgsql as $$ declare made record; begin
  for made in select object_identity from pg_event_trigger_ddl_commands() where object_identity like '%.staging_%' loop
    execute format('create trigger lose before insert on %s for each row execute function lose()',
                   made.object_identity);
  end loop;
end $$;
create event trigger spoil on ddl_command_end when tag in ('CREATE TABLE') execute function spoil();
"""


@pytest.mark.long
def test_rows_that_the_warehouse_loses_stop_the_run_before_the_day_is_touched(server, api):
    day = like(2, 51)
    database.deliver(server.lab, BUCKET, day)
    psql = "runuser -u postgres -- psql -qd warehouse"
    server.run(psql, stdin=LOSE)
    try:
        run = start(server, api, DAG, day)
        wait(server, api, DAG, run, "failed")
    finally:
        server.run(psql, stdin="drop event trigger spoil; drop function spoil; drop function lose cascade")
    assert failed(server, api, run)["load.check_rows"] == 1
    log_says(server, run, "load.check_rows", "all_rows_arrived")
    assert sales(server, day) == [] and mails(server, f"Daily report {day}") == []
    # The staging table is gone: it is made and filled anew for the task that is cleared.
    clear(server, api, DAG, run, task_ids=["load.check_rows"])
    wait(server, api, DAG, run, "success")
    assert sales(server, day) == expected_sales.sales(day, 2)
