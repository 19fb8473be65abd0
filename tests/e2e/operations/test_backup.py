"""Backups: what was dropped by mistake is back as it was a second before, and nobody on the host can delete it."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator

import pytest

from lab import disk
from lab.settings import BUCKET
from tests.e2e.visitors import with_role
from tests.server import wait_until

# With the firewall, which lets PostgreSQL have the keys of the instance's role.
TAGS = ["--tags", "airflow,backup"]
CONNECTION = {"connection_id": "kept", "conn_type": "http", "password": "only the old key reads it"}


@pytest.fixture(scope="module")
def given(server) -> Iterator[list[str]]:
    """What an inventory says where backups are wanted; they are on, and off again afterwards."""
    given = ["-e", json.dumps({"backup_bucket": BUCKET})]
    assert server.play("site.yml", *TAGS, *given).changed > 0
    server.wait_until_healthy()
    assert server.logged_in.post(f"{server.url}/api/v2/connections", json=CONNECTION).status_code == 201
    yield given
    server.run("airflow connections delete kept")
    assert server.play("site.yml", *TAGS).changed > 0
    server.wait_until_healthy()


def before_a_mistake(server) -> str:
    """A moment to restore to: the table `probe` exists, the table `later` does not yet."""
    server.sql("CREATE TABLE probe AS SELECT 42 AS answer")
    moment = server.sql(
        "SELECT to_char(date_trunc('second', clock_timestamp()) + interval '1 s', 'YYYY-MM-DD HH24:MI:SSOF')"
    )
    wait_until(lambda: server.sql(f"SELECT clock_timestamp() > '{moment}'") == "t", 10, "the clock stopped")
    # PostgreSQL goes back to before the first commit that is later: one that removes the database is too late.
    server.sql("CREATE TABLE later ()")
    return moment


def mistake_is_gone(server) -> bool:
    """Whether the databases are as at that moment."""
    gone = server.sql("SELECT answer, to_regclass('later') IS NULL FROM probe") == "42|t"
    server.sql("DROP TABLE probe")
    return gone


@pytest.mark.long
def test_a_database_that_is_dropped_is_back_as_it_was(server, given):
    assert server.play("site.yml", *TAGS, *given).changed == 0
    known = server.sql("SELECT count(*) FROM dag")
    moment = before_a_mistake(server)
    # Keys have changed since, and the other scheduler of the pair runs.
    key = server.run("cat /etc/airflow/secrets/fernet_key")
    server.run("head -c 32 /dev/urandom | basenc --base64url > /etc/airflow/secrets/fernet_key")
    server.run("airflow-restart scheduler")
    server.sql("DROP DATABASE airflow WITH (FORCE)", "postgres")
    said = server.play("restore.yml", "-e", json.dumps({"to": moment}), *given).words
    assert "Nothing is scheduled until you run playbooks/site.yml" in said
    assert mistake_is_gone(server) and server.sql("SELECT count(*) FROM dag") == known
    assert server.run("cat /etc/airflow/secrets/fernet_key") == key
    assert CONNECTION["password"] in server.run("airflow connections get kept --output json")
    # People look first: nothing is scheduled until they say so.
    assert server.run("systemctl list-units --plain --no-legend --state=active 'airflow-scheduler@*'") == ""
    assert (
        "enabled" not in server.run("systemctl is-enabled airflow-scheduler@a airflow-scheduler@b", check=False).split()
    )
    assert server.session().get(f"{server.url}/api/v2/version").status_code == 200
    server.play("site.yml", *given)
    server.wait_until_healthy()
    server.play("check.yml", *given)


@pytest.mark.long
def test_a_time_that_no_backup_reaches_is_refused_before_anything_stops(server, given):
    for to, words in (
        ({"to": "2020-01-01 00:00:00+00"}, "until now, and not 2020"),
        ({"to": "2099-01-01 00:00:00+00"}, "until now, and not 2099"),
        ({}, "say to when"),
    ):
        refused = server.play("restore.yml", "-e", json.dumps(to), *given, succeeds=False)
        assert words in refused.output and refused.changed == 0
    server.wait_until_healthy()


@pytest.mark.long
def test_the_newest_backup_is_restored_on_trial(server, given):
    server.run("systemctl start airstrip-drill")
    said = server.play("check.yml", *given).words
    assert "ok drill restored 0 days ago" in said and "as in the database; a password was read" in said
    assert server.run("ls /var/lib/airstrip-drill").split() == ["result.json"]
    # A key that is not theirs is seen.
    key = "/etc/airflow/secrets/fernet_key"
    server.run(f"cp -a {key} /root/ && head -c 32 /dev/urandom | basenc --base64url > {key}")
    try:
        server.run("systemctl start airstrip-drill", check=False)
    finally:
        server.run(f"mv /root/fernet_key {key}")
    assert "does not read what was restored" in server.play("check.yml", *given, succeeds=False).words
    server.run("systemctl start airstrip-drill")


@pytest.mark.long
def test_secrets_that_were_deleted_come_back(server, given):
    before = server.run("cd /etc/airflow/secrets && sha256sum *")
    moment = server.sql("SELECT clock_timestamp()")
    server.run("rm -r /etc/airflow/secrets")
    refused = server.play("site.yml", *TAGS, *given, succeeds=False)
    assert 'put that file back (docs/recovery.md, "Restore")' in refused.words
    # What the host kept is read with the operator's key alone.
    assert "no identity matched" in server.run("age-keygen 2> /dev/null | airstrip-keep --give-back 2>&1", check=False)
    server.run(f"airstrip-keep --give-back '{moment}' /etc/airflow/secrets", stdin=server.lab.private_key.read_text())
    assert server.run("cd /etc/airflow/secrets && sha256sum *") == before
    server.play("site.yml", *TAGS, *given)
    assert CONNECTION["password"] in server.run("airflow connections get kept --output json")


DELETE = """
import boto3
from botocore.exceptions import ClientError
s3 = boto3.client("s3")
try:
    s3.delete_object(Bucket="{bucket}", Key="{key}", VersionId="{version}")
    print("removed")
except ClientError as error:
    print(error.response["Error"]["Code"])
s3.delete_object(Bucket="{bucket}", Key="{key}")
print("marked")
"""


def test_a_compromised_host_deletes_no_backup(server, given):
    assert "incr backup" in server.play("backup.yml", *given).output
    s3 = server.aws("s3")
    found = s3.list_object_versions(Bucket=BUCKET, Prefix="backup/postgresql-")["Versions"]
    kept = [one for one in found if one["Key"].endswith("/backup/main/backup.info")]
    newest = max(kept, key=lambda version: version["LastModified"])
    code = DELETE.format(bucket=BUCKET, key=newest["Key"], version=newest["VersionId"])
    assert with_role(server, code).split() == ["AccessDenied", "marked"]
    kept = s3.get_object(Bucket=BUCKET, Key=newest["Key"], VersionId=newest["VersionId"])
    assert kept["ContentLength"] == newest["Size"]
    # The operator takes the mark away, and the backup is there.
    (mark,) = [
        one
        for one in s3.list_object_versions(Bucket=BUCKET, Prefix=newest["Key"])["DeleteMarkers"]
        if one["IsLatest"] and one["Key"] == newest["Key"]
    ]
    s3.delete_object(Bucket=BUCKET, Key=mark["Key"], VersionId=mark["VersionId"])
    assert "full backup" in server.run("runuser -u postgres -- pgbackrest --stanza=main info")


@pytest.mark.long
def test_a_damaged_backup_is_found_before_it_is_needed(server, given):
    s3 = server.aws("s3")
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix="backup/postgresql-")["Contents"]
    key, size = next((one["Key"], one["Size"]) for one in found if "/bundle/" in one["Key"])
    damaged = s3.put_object(Bucket=BUCKET, Key=key, Body=bytes(size))["VersionId"]
    server.play("backup.yml", *given, succeeds=False)
    assert "FAIL  jobs" in server.play("check.yml", *given, succeeds=False).output
    s3.delete_object(Bucket=BUCKET, Key=key, VersionId=damaged)
    server.play("backup.yml", *given)
    server.play("check.yml", *given)


@pytest.mark.long
def test_another_key_begins_anew_beside_the_old_backups(server, given):
    def places() -> set[str]:
        found = server.aws("s3").list_objects_v2(Bucket=BUCKET, Prefix="backup/", Delimiter="/")
        return {one["Prefix"] for one in found["CommonPrefixes"]}

    def full() -> list[str]:
        return re.findall(r"full backup: (\S+)", server.run("runuser -u postgres -- pgbackrest --stanza=main info"))

    place, made = places(), full()
    server.play("site.yml", *TAGS, *given, "-e", f"backup_key={secrets.token_hex(32)}")
    assert place < places() and len(full()) == 1 and full() != made
    server.play("site.yml", *TAGS, *given)
    assert full() == made


@pytest.mark.long
def test_while_the_bucket_is_away_history_waits_and_the_doctor_says_so(server, given):
    server.run("sed -i 's/^repo1-s3-bucket=.*/repo1-s3-bucket=nowhere/' /etc/pgbackrest.conf")
    server.sql("SELECT pg_switch_wal()")
    looked = "airstrip check history"
    wait_until(lambda: "FAIL  history" in server.run(looked, check=False), 120, "the doctor does not see it")
    assert "FAIL  history" in server.play("check.yml", *given, succeeds=False).output
    server.play("site.yml", *TAGS, *given)
    sent = "SELECT last_archived_time > last_failed_time FROM pg_stat_archiver"
    wait_until(lambda: server.sql(sent) == "t", 120, "the history does not reach the bucket")
    server.play("check.yml", *given)


def test_a_host_destroyed_after_a_mistake_is_restored_on_a_new_one_without_it(server, given, record_property):
    assert server.play("site.yml", *TAGS, *given).changed == 0
    password, release = server.password, server.run("basename $(readlink /srv/airflow/current)").strip()
    runs, moment = server.sql("SELECT count(*) FROM dag_run"), before_a_mistake(server)
    # What came later than backup_lost_seconds ago may be lost; this did not.
    written = server.sql("SELECT pg_current_wal_lsn()")
    sent = f"SELECT pg_walfile_name('{written}') <= last_archived_wal FROM pg_stat_archiver"
    wait_until(lambda: server.sql(sent) == "t", 120, "the history does not reach the bucket")

    server.lose()
    disk.start_from(server.lab, server.stack, None)
    began = time.monotonic()
    server.play("provision.yml")
    provisioned = time.monotonic() - began
    to = ["-e", json.dumps({"to": moment})]
    refused = server.play("restore.yml", *to, "-e", "identity=/nowhere", *given, succeeds=False)
    assert "-e identity=/nowhere" in refused.words and refused.changed == 0
    later = server.inventory / "group_vars" / "later.yml"
    later.write_text("{}\n")
    began = time.monotonic()
    said = server.play("restore.yml", *to, *given).words
    # Said at the end of each run, and compared by `make bench NAME=keep` alone.
    record_property("restore_new_host_s", round(provisioned + time.monotonic() - began))
    later.unlink()
    assert "Nothing is scheduled until you run playbooks/site.yml" in said
    assert "files of the inventory are not what they were: group_vars/later.yml" in said

    assert mistake_is_gone(server) and server.password == password
    assert server.sql("SELECT count(*) FROM dag_run") == runs
    assert "only the old key reads it" in server.run("airflow connections get kept --output json")
    assert server.run(f"ls /srv/airflow/releases/{release}/dags")
    assert server.run("systemctl list-units --plain --no-legend --state=active 'airflow-scheduler@*'") == ""
    server.play("site.yml", *given)
    server.wait_until_healthy()
    server.play("check.yml", *given)
