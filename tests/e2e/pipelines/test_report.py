"""The daily business report: three days with their dirt, days that are run again, and who is mailed."""

from __future__ import annotations

import base64
from datetime import timedelta

import pytest

from lab.settings import BUCKET
from lab.shop import database, seed
from tests import expected_sales
from tests.e2e.reports import DAG, failed, like, log_says, sales
from tests.e2e.runs import (
    TODAY,
    clear,
    keys,
    mails,
    start,
    text,
    wait,
    wait_for_mails,
    wait_for_task,
)

# The run that a test starts for the day before these has the date of the first of them: `like` begins a day earlier.
THREE_DAYS = [TODAY - timedelta(days=past) for past in (31, 30, 29)]


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
def test_the_mail_matches_s3_and_its_pictures_show(server, browser):
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


def test_a_rerun_day_duplicates_nothing_and_restates_late_orders(server, api):
    day = like(2, 33)
    database.deliver(server.lab, BUCKET, day)
    # Two runs about one day: the second waits for the first, and has nothing new to mail.
    run, twin = (start(server, api, DAG, day, second=second) for second in (0, 1))
    for one in (run, twin):
        wait(server, api, DAG, one, "success")
    before = sales(server, day)
    assert before == expected_sales.sales(day, 2) and len(mails(server, f"Daily report {day}")) == 1
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


@pytest.mark.long
def test_an_order_that_moves_over_midnight_counts_once(server, api):
    """Its newest version decides the day; recipients of the day that it left get a new mail."""
    day = like(2, 70)
    after = day + timedelta(days=1)
    database.deliver(server.lab, BUCKET, day, after)
    order = f"'{day:%y%m%d}-99', 'DE', '{{}}', 'EUR', '1.000,00', 'paid', '{{}}'"
    database.psql(server.lab, f"insert into orders values ({order.format(f'{day} 23:59', day)})")
    # Side by side: neither waits for the other.
    runs = [start(server, api, DAG, one) for one in (day, after)]
    for run in runs:
        wait(server, api, DAG, run, "success")
    assert len(sales(server, day)) == len(expected_sales.sales(day, 2)) + 1
    database.psql(server.lab, f"insert into orders values ({order.format(f'{after} 00:01', after)})")
    clear(server, api, DAG, runs[1])
    wait(server, api, DAG, runs[1], "success")
    assert sales(server, day) == expected_sales.sales(day, 2)
    assert len([row for row in sales(server, day, after) if row[2] == f"{day:%y%m%d}-99"]) == 1
    assert "3,304.50" in text(server, f"curated/report/daily/dt={day}/report.txt")
    said = [mail.get_body(("plain",)).get_content() for mail in wait_for_mails(server, f"Daily report {day}", 2)]
    assert ["4,304.50" in text for text in said] == [True, False] and "3,304.50" in said[1]
    assert len(mails(server, f"Daily report {after}")) == 2


@pytest.mark.long
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
    page = server.play("why.yml", "-e", f"dag={DAG}", "-e", f"run={run}").words
    assert f"{DAG} {run}: failed" in page and "combine failed in try 1 of" in page
    assert "last good" in page and "release the same as then" in page and "memory at least" in page
    assert "receipts.csv must name the columns receipt" in page
    database.deliver(server.lab, BUCKET, day)
    clear(server, api, DAG, run, only_failed=True)
    wait(server, api, DAG, run, "success")
    assert sales(server, day) == expected_sales.sales(day, 2)
    assert len(mails(server, f"Daily report {day}")) == 1


@pytest.mark.long
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


def test_triggering_a_run_cannot_mail_a_stranger_the_report(server, api):
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


def test_a_run_leaves_only_its_sales(server, api):
    query = "select tablename from pg_tables where schemaname = 'public'"
    assert server.sql(query, "warehouse").split() == ["sales"]
