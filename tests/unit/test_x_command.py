"""The pipeline as a command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from etl.x import command as x_command
from lab.x_api.api import Fault
from lab.x_api.people import Person
from tests.unit.conftest import KEYS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(x, x_server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("X_BEARER_TOKEN", KEYS.bearer_token)
    monkeypatch.setenv("X_API_URL", x_server.address)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["twitter_etl", "--to", str(tmp_path), "--day", "2026-11-01", *words])
        try:
            x_command.main()
            code = 0
        except SystemExit as ended:
            code = ended.code
        output = capsys.readouterr()
        return code, output.out + output.err

    return call


def test_it_collects_and_shows_a_table(run, tmp_path):
    code, output = run("ada_airfield", "@Tower_Tom", "nobody")
    assert code == 0 and "2026-11-01: 14 posts, 0.09 USD" in output and "not_found" in output
    assert len(list(tmp_path.glob("curated/x/posts/dt=2026-11-01/user_id=*/posts.csv"))) == 2


def test_several_days(run, tmp_path):
    code, output = run("ada_airfield", "--day", "2026-10-20", "--until", "2026-10-24", "--formats", "csv", "parquet")
    assert code == 0 and output.count("7 posts") == 5
    assert len(list(tmp_path.glob("curated/x/posts_parquet/dt=*/user_id=1000/posts.parquet"))) == 5


def test_a_rate_limit_is_waited_out(run, x, monkeypatch):
    waited = []
    monkeypatch.setattr(x_command.time, "sleep", waited.append)
    x.faults = [Fault("rate_limited", [1], reset="30")]
    assert run("ada_airfield")[0] == 0
    assert len(waited) == 1 and 30 <= waited[0] <= 35


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nobody"], "XError: X does not show nobody (not_found)"),
        (["ada_airfield", "--max-posts", "3"], "BudgetSpent: 0 posts"),
        (["ada_airfield", "--day", "2099-01-01"], "2099-01-01 is not over"),
    ],
)
def test_what_must_be_changed_is_one_line_and_code_1(run, words, said):
    code, output = run(*words)
    assert code == 1 and said in output and "Traceback" not in output


def test_without_a_key_it_says_which(run, monkeypatch):
    monkeypatch.delenv("X_BEARER_TOKEN")
    code, output = run("ada_airfield")
    assert code == 1 and "export X_BEARER_TOKEN" in output


def test_drift_is_shown(run, monkeypatch):
    monkeypatch.setattr(x_command, "drift", lambda *_: "fewer than usual")
    assert "fewer than usual" in run("ada_airfield")[1]


def test_stopped_by_hand_it_says_how_to_go_on(run, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(x_command, "collect", stop)
    code, output = run("ada_airfield")
    assert code == 130 and "same command again" in output


def test_the_module_is_a_command():
    command = [sys.executable, "-m", "etl.twitter_etl", "--help"]
    result = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, env=os.environ, check=True)
    assert "python -m etl.twitter_etl" in result.stdout and "X_BEARER_TOKEN" in result.stdout


def test_killed_for_real_it_goes_on_and_asks_no_page_twice(x, x_server, tmp_path, monkeypatch):
    """SIGKILL three times at any moment, then to the end: nothing is different."""
    x.people.append(Person("7", "busy", posts_per_day=3000))
    monkeypatch.setattr(x_server, "seconds", 0.05)
    environment = {**os.environ, "X_BEARER_TOKEN": KEYS.bearer_token, "X_API_URL": x_server.address}
    command = [sys.executable, "-m", "etl.twitter_etl", "busy", "--day", "2026-11-01", "--to"]

    def begin(folder):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([*command, str(folder)], cwd=ROOT, env=environment, **quiet)

    def stored() -> int:
        return len(list((tmp_path / "cut").rglob("page-*.jsonl.gz")))

    ends, kept = [], [0]
    for _ in range(3):
        process, asked = begin(tmp_path / "cut"), len(x.log)
        while len(x.log) < asked + 5 and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert process.returncode == -signal.SIGKILL
        ends.append(len(x.log))
        kept.append(stored())
    assert not (tmp_path / "cut" / "curated").exists()
    assert begin(tmp_path / "cut").wait() == 0
    # Each run resumes after the last stored page: only an answer in flight is requested again.
    pages: list[str | None] = []
    for first, begun, ended in zip(kept, [0, *ends], [*ends, len(x.log)], strict=True):
        asked = [entry["query"].get("pagination_token") for entry in x.log[begun:ended] if "/tweets" in entry["path"]]
        assert asked and len(pages) - first in (0, 1)
        pages = pages[:first] + asked
    assert len(pages) == len(set(pages)) == stored() == 30 and kept[-1] > 0
    assert x.usd == 3000 * 0.005 + 0.01
    assert begin(tmp_path / "whole").wait() == 0
    files = {path.relative_to(tmp_path / "whole"): path for path in (tmp_path / "whole").rglob("*.*")}
    assert len(files) == 33
    assert all((tmp_path / "cut" / name).read_bytes() == path.read_bytes() for name, path in files.items())
