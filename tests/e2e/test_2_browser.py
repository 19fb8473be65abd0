"""The user interface in a real browser, through nginx."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.e2e.conftest import ARTEFACTS


@pytest.fixture(scope="module")
def page(server):
    # The guesses of an earlier test are still counted against this address.
    time.sleep(45)
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-quic"]
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
        context = browser.new_context(ignore_https_errors=True, viewport={"width": 1440, "height": 900})
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.violations = []
        page.on("console", lambda line: "Content Security Policy" in line.text and page.violations.append(line.text))
        page.goto(f"{server.url}/")
        page.fill("input[name=username]", "admin")
        page.fill("input[name=password]", server.password)
        page.click("input[type=submit], button[type=submit]")
        page.wait_for_url(lambda url: "/auth/login" not in url)
        page.violations.clear()
        yield page
        browser.close()


def look(page, name: str) -> None:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{name}.png")


def test_the_dag_is_listed(page, server):
    page.goto(f"{server.url}/dags")
    expect(page.get_by_text("twitter", exact=True).first).to_be_visible()
    look(page, "dags")


def test_its_last_run_is_green(page, server):
    run = server.api().get(f"{server.url}/api/v2/dags/twitter/dagRuns", params={"order_by": "-run_after"}).json()
    last = run["dag_runs"][0]
    assert last["state"] == "success"
    page.goto(f"{server.url}/dags/twitter/runs/{last['dag_run_id']}")
    expect(page.get_by_text("Success").first).to_be_visible()
    look(page, "run")


def test_its_graph_is_drawn(page, server):
    page.goto(f"{server.url}/dags/twitter")
    page.locator("button[aria-label*='Graph'], button[title*='Graph']").first.click()
    expect(page.locator(".react-flow__node").filter(has_text="publish").first).to_be_visible()
    look(page, "graph")


def test_the_log_of_a_task_is_shown(page, server):
    api = server.api()
    runs = api.get(f"{server.url}/api/v2/dags/twitter/dagRuns", params={"order_by": "-run_after"}).json()["dag_runs"]
    page.goto(f"{server.url}/dags/twitter/runs/{runs[0]['dag_run_id']}/tasks/publish")
    expect(page.get_by_text("_manifest.json").first).to_be_visible()
    look(page, "log")


def test_no_page_broke_the_content_security_policy(page):
    assert page.violations == []
