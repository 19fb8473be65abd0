"""What the pipelines cost, without a machine.

The X pipeline runs beside a loop that only downloads: 50 users with 3,200 posts each; a page takes the API 0.1 s. The
business report combines a file of 200 MB.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lab.x_api.api import XApi
from lab.x_api.oauth import Keys
from lab.x_api.people import Person
from lab.x_api.server import Server

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "build" / "airflow" / "bin" / "python"
USERS, POSTS = 50, 3200
FEW = USERS // 10
# X itself takes longer.
ANSWER_SECONDS = 0.1
BARE = """
import os, sys, requests
session = requests.Session()
session.headers["Authorization"] = "Bearer " + os.environ["X_BEARER_TOKEN"]
day, count = sys.argv[1], 0
for number in range(1, int(sys.argv[2]) + 1):
    query = {"max_results": 100, "start_time": f"{day}T00:00:00Z", "end_time": sys.argv[3],
             "expansions": "referenced_tweets.id",
             "tweet.fields": "created_at,lang,public_metrics,note_tweet,referenced_tweets"}
    while True:
        body = session.get(f"{os.environ['X_API_URL']}/2/users/{number}/tweets", params=query).json()
        count += len(body["data"])
        if "next_token" not in body["meta"]:
            break
        query["pagination_token"] = body["meta"]["next_token"]
print(count)
"""
# The kernel also counts a process's memory before exec: so a small process starts the measured one, not this one,
# which holds the stand-in.
LAUNCH = """
import os, resource, subprocess, sys, time
began = time.monotonic()
code = subprocess.call(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
os.write(int(os.environ["FIGURES"]), f"{time.monotonic() - began} {peak}".encode())
sys.exit(code)
"""
RECEIPTS_BYTES = 200 * 10**6
COMBINE = """
import sys
from datetime import date
from etl.report import combining
from etl.storage import Storage
print(combining.combine(Storage(sys.argv[1]), date(2026, 11, 3), {"EUR": "1"})["shops"].accepted)
"""


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float, str]:
    """Run a command; return its seconds, its peak memory in MB, and what it said."""
    with tempfile.TemporaryFile("w+") as output:
        launched = [sys.executable, "-c", LAUNCH, *command]
        streams = {"stdout": output, "stderr": subprocess.STDOUT}
        reading, writing = os.pipe()
        process = subprocess.Popen(
            launched, cwd=ROOT, env={**environment, "FIGURES": str(writing)}, pass_fds=[writing], **streams
        )
        os.close(writing)
        with os.fdopen(reading) as figures:
            seconds, peak = map(float, figures.read().split())
        process.wait()
        output.seek(0)
        said = output.read()
    assert process.returncode == 0, said[-3000:]
    return seconds, peak, said


def etl() -> dict[str, list[float]]:
    """Measure; figures are posts a second, the ratio of times, and peak memory for 5 and for all users."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    day = today - timedelta(days=1)
    people = [Person(str(number), f"user_{number}", POSTS, last=day) for number in range(1, USERS + 1)]
    # A tenth of the pages.
    calm = [Person(str(100 + number), f"calm_{number}", POSTS // 10, last=day) for number in range(FEW)]
    server = Server(
        XApi(Keys("bench"), [*people, *calm], clock=lambda: today + timedelta(hours=1)), seconds=ANSWER_SECONDS
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {**os.environ, "X_BEARER_TOKEN": "bench", "X_API_URL": server.address}

    def collect(chosen: list[Person]) -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as folder:
            names = [person.username for person in chosen]
            budget = ["--max-posts", str(USERS * POSTS * 2), "--max-usd", "2000"]
            command = [str(PYTHON), "-m", "etl.twitter_etl", *names, "--day", f"{day:%Y-%m-%d}", "--to", folder]
            seconds, peak, said = run([*command, *budget], environment)
        assert f"{sum(person.posts_per_day for person in chosen)} posts" in said, said[-3000:]
        return seconds, peak

    try:
        bare, _, said = run(
            [str(PYTHON), "-c", BARE, f"{day:%Y-%m-%d}", str(USERS), f"{today:%Y-%m-%dT%H:%M:%SZ}"], environment
        )
        assert int(said) == USERS * POSTS
        seconds, peak = collect(people)
        _, peak_of_few = collect(people[:FEW])
        _, peak_of_calm = collect(calm)
    finally:
        server.shutdown()
    return {
        "etl_posts_per_s": [USERS * POSTS / seconds],
        "etl_time_ratio": [seconds / bare],
        "etl_peak_mb": [peak],
        "etl_peak_mb_10x_pages": [peak_of_few],
        "etl_peak_10th_pages_mb": [peak_of_calm],
    }


def write_receipts(path: Path, day: str) -> int:
    """Write a file of 200 MB; return how many receipts it has."""
    size = rows = 0
    with path.open("wb") as file:
        size += file.write(b"receipt;country;sold_at;currency;amount\n")
        while size < RECEIPTS_BYTES:
            size += file.write(b"receipt-%09d;DE;%s 10:00;EUR;1.234,50\n" % (rows, day.encode()))
            rows += 1
    return rows


def report() -> dict[str, list[float]]:
    """Measure; figures are the seconds and the peak memory of cleaning a file of 200 MB."""
    with tempfile.TemporaryDirectory() as folder:
        orders = Path(folder, "raw/report/orders/dt=2026-11-03/orders.csv")
        receipts = Path(folder, "incoming/report/receipts/dt=2026-11-03/receipts.csv")
        for path in (orders, receipts):
            path.parent.mkdir(parents=True)
        orders.write_text("order_id,country,ordered_at,currency,amount,status\n")
        rows = write_receipts(receipts, "2026-11-03")
        seconds, peak, said = run([str(PYTHON), "-c", COMBINE, folder], dict(os.environ))
        assert int(said) == rows
    return {"report_200mb_s": [seconds], "report_200mb_peak_mb": [peak]}
