"""What site.yml and each unit's start are told of the metadata database."""

import io
import json

import psycopg2
import pytest
from cryptography.fernet import Fernet
from werkzeug.security import generate_password_hash

from airstrip import database


class Connection:
    """Answers by the first words of a query that are known; None is no row."""

    def __init__(self, answers: dict) -> None:
        self.answers = answers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def cursor(self):
        return self

    def execute(self, query, values=()):
        text = query % tuple(repr(value) for value in values)
        self.found = next((answer for words, answer in self.answers.items() if text.startswith(words)), None)

    def fetchone(self):
        return None if self.found is None else (self.found,)

    def fetchall(self):
        return self.found or []


@pytest.fixture
def current():
    """A database at the revision of this Airflow, with its administrator."""
    return {
        "SELECT to_regclass": "there",
        "SELECT version_num FROM alembic_version_fab": database.wanted(database.TABLES["alembic_version_fab"]),
        "SELECT version_num FROM alembic_version": database.wanted(database.TABLES["alembic_version"]),
        "SELECT password FROM ab_user WHERE username = 'admin'": generate_password_hash("right"),
        "SELECT pool, slots": [("x_api", 2)],
    }


@pytest.fixture
def answers(current, monkeypatch, tmp_path):
    (tmp_path / "admin_password").write_text("right\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(database, "connect", lambda: Connection(current))
    monkeypatch.setattr(database.time, "sleep", lambda _: None)
    return current


def state(capsys) -> dict:
    database.state("admin")
    return json.loads(capsys.readouterr().out)


def test_a_current_database_needs_nothing(answers, capsys):
    assert state(capsys) == {"migration_needed": False, "administrator_current": True, "pools": {"x_api": 2}}


@pytest.mark.parametrize("table", database.TABLES)
def test_another_revision_of_either_table_wants_a_migration(answers, capsys, table):
    answers[f"SELECT version_num FROM {table}"] = "0" * 12
    assert state(capsys)["migration_needed"]


def test_an_empty_database_wants_everything(answers, capsys):
    answers["SELECT to_regclass"] = None
    assert state(capsys) == {"migration_needed": True, "administrator_current": False, "pools": {}}


def test_a_changed_password_is_noticed(answers, capsys, tmp_path):
    (tmp_path / "admin_password").write_text("another\n")
    assert not state(capsys)["administrator_current"]


def test_waiting_too_long_says_why(answers, monkeypatch):
    moments = iter([0.0, 1.0, 1000.0])
    monkeypatch.setattr(database.time, "monotonic", lambda: next(moments))
    answers["SELECT version_num FROM alembic_version"] = "0" * 12
    with pytest.raises(SystemExit, match="not at this Airflow's revision: run sudo airflow db migrate"):
        database.wait()
    moments = iter([0.0, 1000.0])

    def away():
        raise psycopg2.OperationalError("refused")

    monkeypatch.setattr(database, "connect", away)
    with pytest.raises(SystemExit, match="does not answer: refused"):
        database.wait()


def test_it_reads_what_a_key_of_the_host_encrypted(monkeypatch, tmp_path):
    new, old, another = (Fernet.generate_key() for _ in range(3))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "fernet_key").write_text(f"{new.decode()},{old.decode()}\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(Fernet(old).encrypt(b"a password").decode()))
    database.read()
    monkeypatch.setattr("sys.stdin", io.StringIO(Fernet(another).encrypt(b"a password").decode()))
    with pytest.raises(SystemExit, match="another key"):
        database.read()


def test_all_but_the_dag_table_can_be_cleaned(capsys):
    database.say_tables()
    tables = capsys.readouterr().out.strip().split(",")
    assert {"dag_run", "task_instance", "log", "xcom"} <= set(tables) and "dag" not in tables


def test_it_goes_on_when_the_database_comes(answers, monkeypatch):
    tries = iter([psycopg2.OperationalError("starting up"), Connection(answers)])

    def connect():
        found = next(tries)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(database, "connect", connect)
    database.wait()
