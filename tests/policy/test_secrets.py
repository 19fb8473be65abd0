"""How a secret is kept, changed, and its old key forgotten."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from tests.server import ROOT

specification = importlib.util.spec_from_file_location("secret_files", ROOT / "roles/airflow/library/secret_files.py")
secret_files = importlib.util.module_from_spec(specification)
sys.modules["secret_files"] = secret_files
specification.loader.exec_module(secret_files)


def fernet(given: str, kept: str | None, step: str) -> str:
    return secret_files.wanted({"kind": "fernet", "value": given}, kept, step)


@pytest.mark.parametrize(
    ("given", "kept", "step", "wanted"),
    [
        ("", "old", "keep", "old"),
        ("", "new,old", "keep", "new,old"),
        ("new", "new,old", "keep", "new,old"),
        ("given", None, "keep", "given"),
        # A run that was cut off goes on with the key that it made.
        ("", "new,old", "rotate", "new,old"),
        # The inventory says which key it is, and is changed first.
        ("old", "old", "rotate", "old"),
        ("new", "old", "rotate", "new,old"),
        ("new", "other,old", "rotate", "new,other,old"),
        ("", "new,old", "settle", "new"),
        ("", "old", "settle", "old"),
    ],
)
def test_no_key_is_forgotten_before_all_is_encrypted_again(given, kept, step, wanted):
    assert fernet(given, kept, step) == wanted


def test_a_new_key_comes_before_the_old_one():
    new, old = fernet("", "old", "rotate").split(",")
    assert old == "old" and len(new) == 44


def test_a_password_changes_unless_the_inventory_sets_it():
    for kind in ("token", "password"):
        keep, rotate = (secret_files.wanted({"kind": kind, "value": ""}, "old", step) for step in ("keep", "rotate"))
        assert keep == "old" and len(rotate) >= 24
        assert secret_files.wanted({"kind": kind, "value": "given"}, "old", "rotate") == "given"


@pytest.mark.parametrize(
    ("given", "kept", "other", "step", "found"),
    [
        ("", "old", "x", "keep", []),
        ("old", "old", "x", "keep", []),
        ("new", "new,old", "x", "keep", []),
        ("new", "old", "x", "keep", ["key"]),
        ("new", "old", "x", "rotate", []),
        ("", None, "x", "keep", ["key"]),
        ("", None, None, "keep", []),
        ("given", "", "x", "keep", ["key"]),
        ("given", None, "x", "keep", []),
    ],
)
def test_a_lost_key_and_another_one_are_told(given, kept, other, step, found):
    secrets = {"key": {"kind": "fernet", "value": given}, "other": {"kind": "token", "value": ""}}
    assert secret_files.conflicting(secrets, {"key": kept, "other": other}, step) == found


def test_a_folder_that_was_deleted_is_a_lost_key_and_no_new_host():
    secrets = {"key": {"kind": "fernet", "value": ""}}
    assert secret_files.conflicting(secrets, {"key": None}, "keep", made=True) == ["key"]
    secrets["key"]["value"] = "given"
    assert secret_files.conflicting(secrets, {"key": None}, "keep", made=True) == []
