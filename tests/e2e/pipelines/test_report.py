"""The daily business report: three days with their dirt, and each of its neighbours failing in turn."""

from __future__ import annotations

import base64
import csv
import io
from datetime import date, timedelta

import pytest

from lab import services
from lab.run import stop
from lab.settings import BUCKET
from lab.shop import database, seed
from tests import expected_sales
from tests.e2e.runs import (
    TODAY,
    clear,
    instances,
    keys,
    mails,
    pause,
    start,
    text,
    unpause,
    wait,
    wait_for_mails,
    wait_for_task,
)

DAG = "daily_report"
THREE_DAYS = [TODAY - timedelta(days=past) for past in (32, 31, 30)]
KEPT = "day, channel, sale_id, to_char(sold_at, 'YYYY-MM-DD HH24:MI:SS'), country, currency, amount, amount_eur, status"


def like(turn: int, last: int) -> date:
    """Return a day like one of the three, that no other test asks for."""
    return next(day for day in (TODAY - timedelta(days=last + past) for past in range(3)) if seed.turn(day) == turn)


def sales(server, *days: date) -> list[tuple[str, ...]]:
    """What the warehouse holds of some days."""
    wanted = ", ".join(f"'{day}'" for day in days)
    query = f"copy (select {KEPT} from sales where day in ({wanted})) to stdout csv"
    answer = server.sql(query, "warehouse")
    return sorted(tuple(row) for row in csv.reader(io.StringIO(answer)))


def failed(server, api, run: str) -> dict[str, int]:
    """The failed tasks of a run, with their tries."""
    found = instances(server, api, DAG, run)
    return {task["task_id"]: task["try_number"] for task in found if task["state"] == "failed"}


def fault(server, kind: str | None) -> None:
    """Make the API of exchange rates fail, or not."""
    answer = server.session().post(f"{services.shop.rates_endpoint(server.lab)}/control", json={"fault": kind})
    assert answer.status_code == 200


def log_says(server, run: str, task: str, words: str) -> None:
    """Check that a task's log has some words."""
    server.run(f"grep -rhE '{words}' '/var/log/airflow/dag_id={DAG}/run_id={run}/task_id={task}'")


@pytest.fixture(scope="module")
def api(server):
    # The daily run begins as soon as the DAG is no longer paused, and holds up the others.
    yesterday = TODAY - timedelta(days=1)
    database.deliver(server.lab, BUCKET, yesterday)
    unpause(server, server.logged_in, DAG)
    wait_for_mails(server, f"Daily report {yesterday}", seconds=300)
    yield server.logged_in
    pause(server, server.logged_in, DAG)


@pytest.fixture(scope="module")
def three_days(server, api) -> None:
    """The three days are reported."""
    database.deliver(server.lab, BUCKET, *THREE_DAYS)
    # One after the other, so that each finds the day before it.
    days = f"--from-date {THREE_DAYS[0]} --to-date {THREE_DAYS[-1]} --max-active-runs 1"
    server.run(f"airflow backfill create --dag-id {DAG} {days} 2>&1")
    for day in THREE_DAYS:
        wait_for_mails(server, f"Daily report {day}", seconds=180)


@pytest.mark.usefixtures("three_days")
def test_three_days_with_their_dirt_give_the_hand_checked_answer(server):
    expected = [row for day in THREE_DAYS for row in expected_sales.sales(day, seed.turn(day))]
    assert sales(server, *THREE_DAYS) == expected
    for day in THREE_DAYS:
        (mail,) = mails(server, f"Daily report {day}")
        totals, refused = expected_sales.TOTALS[seed.turn(day)], expected_sales.REFUSED[seed.turn(day)]
        lines = mail.get_body(("plain",)).get_content().splitlines()
        for channel, (count, revenue) in totals.items():
            (line,) = (line for line in lines if line.startswith(channel))
            assert line.split()[1:3] == [str(count), f"{float(revenue):,.2f}"]
            problem = lines[lines.index(line) + 1]
            assert ("CHECK FAILED" in problem) == bool(refused[channel][1])
            assert all(reason in problem for reason in refused[channel][1])
        assert ("failed" in mail["subject"]) == any(reasons for _, reasons in refused.values())
        listed = text(server, f"quarantine/report/sales/dt={day}/refused.csv").splitlines()
        assert len(listed) == 1 + sum(sum(reasons.values()) for _, reasons in refused.values())


@pytest.mark.usefixtures("three_days")
def test_the_mail_is_what_lies_on_s3_and_its_pictures_are_seen(server, browser):
    day = THREE_DAYS[-1]
    (mail,) = mails(server, f"Daily report {day}")
    assert (mail["to"], mail["from"]) == ("management@lab", "airflow@lab")
    assert [part.get_content_type() for part in mail.walk()] == [
        *["multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png", "image/png"]
    ]
    html = mail.get_body(("html",)).get_content()
    for part in mail.walk():
        if part.get_content_type() == "image/png":
            content = base64.b64encode(part.get_content()).decode()
            html = html.replace(f"cid:{part['content-id'].strip('<>')}", f"data:image/png;base64,{content}")
    written = text(server, f"curated/report/daily/dt={day}/report.html")
    assert html.split() == written.split()
    report = server.artefacts / "report.html"
    report.write_text(html)
    page = browser.new_page(viewport={"width": 1040, "height": 1200})
    page.goto(report.as_uri())
    sizes = page.eval_on_selector_all("img", "images => images.map(one => [one.naturalWidth, one.naturalHeight])")
    # A picture of one colour shows nothing.
    colours = page.eval_on_selector_all(
        "img",
        """images => images.map(one => {
             const canvas = Object.assign(document.createElement("canvas"), {width: 960, height: 400});
             const context = canvas.getContext("2d");
             context.drawImage(one, 0, 0);
             const bytes = new Uint32Array(context.getImageData(0, 0, 960, 400).data.buffer);
             return new Set(bytes).size;
           })""",
    )
    page.screenshot(path=report.with_suffix(".png"), full_page=True)
    page.close()
    assert sizes == [[960, 400]] * 2
    assert all(count > 20 for count in colours)


def test_a_day_that_is_run_again_doubles_nothing_and_late_orders_are_restated(server, api):
    day = like(2, 33)
    database.deliver(server.lab, BUCKET, day)
    run = start(server, api, DAG, day)
    wait(server, api, DAG, run, "success")
    before = sales(server, day)
    assert before == expected_sales.sales(day, 2)
    clear(server, api, DAG, run)
    wait(server, api, DAG, run, "success")
    assert sales(server, day) == before and len(mails(server, f"Daily report {day}")) == 1
    late = f"'{day:%y%m%d}-99', 'DE', '{day} 20:00', 'EUR', '1.000,00', 'paid', '{day + timedelta(days=1)}'"
    database.psql(server.lab, f"insert into orders values ({late})")
    clear(server, api, DAG, run)
    wait(server, api, DAG, run, "success")
    assert len(sales(server, day)) == len(before) + 1
    restated = wait_for_mails(server, f"Daily report {day}", 2)
    assert "4,304.50" in restated[-1].get_body(("plain",)).get_content()


def test_the_run_waits_for_the_shops(server, api):
    day = like(2, 36)
    run = start(server, api, DAG, day)
    wait_for_task(server, api, DAG, run, "receipts_have_come", "deferred")
    database.deliver(server.lab, BUCKET, day)
    wait(server, api, DAG, run, "success")
    assert sales(server, day) == expected_sales.sales(day, 2)


def test_a_file_that_cannot_be_read_fails_at_once_and_nothing_is_loaded_or_mailed(server, api):
    day = like(2, 39)
    s3 = server.aws("s3")
    s3.put_object(Bucket=BUCKET, Key=seed.receipts_key(day), Body=b"<html>Sign in</html>")
    run = start(server, api, DAG, day)
    wait(server, api, DAG, run, "failed")
    assert failed(server, api, run)["combine"] == 1
    log_says(server, run, "combine", "receipts.csv must name the columns receipt")
    assert sales(server, day) == [] and mails(server, f"Daily report {day}") == []
    assert keys(server, f"curated/report/daily/dt={day}/") == []
    assert [mail["to"] for mail in wait_for_mails(server, run)] == ["ops@lab"]
    database.deliver(server.lab, BUCKET, day)
    clear(server, api, DAG, run, only_failed=True)
    wait(server, api, DAG, run, "success")
    assert sales(server, day) == expected_sales.sales(day, 2)
    assert len(mails(server, f"Daily report {day}")) == 1


def test_every_neighbour_may_fail_and_the_task_is_tried_again(server, api):
    """In one run: the API is down, then it answers with HTML; orders and warehouse refuse; the mail server is away,
    then it refuses."""
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
        clear(server, api, DAG, run, task_ids=["fetch_rates", "extract_orders"])
        wait_for_task(server, api, DAG, run, "load.create", "up_for_retry")
        log_says(server, run, "load.create", "is not permitted to log in")
        server.sql("alter role warehouse login")
        assert sales(server, day) == []
        clear(server, api, DAG, run, task_ids=["load.create"])
        wait_for_task(server, api, DAG, run, "send_mail", "up_for_retry")
        log_says(server, run, "send_mail", "Connection refused")
        services.mail.up(lab, largest_mail=1000)
        clear(server, api, DAG, run, task_ids=["send_mail"])
        wait_for_task(server, api, DAG, run, "send_mail", "up_for_retry")
        log_says(server, run, "send_mail", "552")
    finally:
        fault(server, None)
        database.psql(lab, f"alter role {database.READER} login")
        server.sql("alter role warehouse login")
        stop(services.mail.pid_file(lab))
        services.mail.up(lab)
    assert mails(server, f"Daily report {day}") == []
    clear(server, api, DAG, run, task_ids=["send_mail"])
    wait(server, api, DAG, run, "success")
    assert sales(server, day) == expected_sales.sales(day, 2)
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


@pytest.mark.parametrize(("answer", "sent", "last"), [("Approve", 1, 45), ("Reject", 0, 48)])
def test_a_report_that_needs_an_approval_waits_for_it(server, api, answer, sent, last):
    day = like(3, last)
    database.deliver(server.lab, BUCKET, day)
    run = start(server, api, DAG, day, approval=True)
    wait_for_task(server, api, DAG, run, "approve", "awaiting_input")
    assert mails(server, f"Daily report {day}") == []
    url = f"{server.url}/api/v2/dags/{DAG}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
    asked = api.get(url).json()
    assert "CHECK FAILED" in asked["body"] and asked["subject"].startswith(f"Daily report {day}: ")
    assert api.patch(url, json={"chosen_options": [answer]}).status_code == 200
    wait(server, api, DAG, run, "success")
    assert len(mails(server, f"Daily report {day}")) == sent


def test_who_triggers_a_run_cannot_mail_the_report_to_a_stranger(server, api):
    day = like(1, 54)
    database.deliver(server.lab, BUCKET, day)
    run = start(server, api, DAG, day, recipients=["outsider@evil.example"])
    wait(server, api, DAG, run, "failed")
    log_says(server, run, "check_settings", "outsider@evil.example may not be mailed")
    # Neither where the task that says so is skipped.
    url = f"{server.url}/api/v2/dags/{DAG}/dagRuns/{run}/taskInstances/check_settings"
    assert api.patch(url, json={"new_state": "success"}).status_code == 200
    clear(server, api, DAG, run, task_ids=["receipts_have_come"], include_downstream=True)
    wait(server, api, DAG, run, "failed")
    log_says(server, run, "choose", "outsider@evil.example may not be mailed")
    assert mails(server, f"Daily report {day}") == []


def test_nothing_is_left_of_a_run_but_its_sales(server, api):
    query = "select tablename from pg_tables where schemaname = 'public'"
    assert server.sql(query, "warehouse").split() == ["sales"]
