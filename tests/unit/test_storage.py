"""Objects in a folder, and in a bucket of moto's S3."""

import gc
import os

import boto3
import pytest
from moto.server import ThreadedMotoServer

from etl.storage import BLOCK_BYTES, Storage, StorageRefused


@pytest.fixture(scope="module")
def bucket():
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        where = {"LocationConstraint": "eu-central-1"}
        boto3.client("s3").create_bucket(Bucket="airstrip-unit", CreateBucketConfiguration=where)
        yield "s3://airstrip-unit"
    server.stop()


@pytest.fixture(params=["folder", "bucket"])
def anywhere(request, tmp_path):
    return Storage(str(tmp_path) if request.param == "folder" else request.getfixturevalue("bucket"))


def test_objects_come_back(anywhere):
    assert anywhere.keys("raw/x/") == []
    assert anywhere.put("raw/x/b.gz", b"two") == f"{anywhere.address}/raw/x/b.gz"
    anywhere.put("raw/x/a=1/c.gz", b"one")
    anywhere.put("raw/x/b.gz", b"three")
    assert anywhere.keys("raw/x/") == ["raw/x/a=1/c.gz", "raw/x/b.gz"]
    assert anywhere.get("raw/x/b.gz") == b"three" and anywhere.size("raw/x/b.gz") == 5
    with pytest.raises(FileNotFoundError):
        anywhere.get("raw/x/none")


def test_what_another_writes_is_seen(anywhere):
    assert anywhere.keys("seen/") == []
    Storage(anywhere.address).put("seen/new", b"")
    assert anywhere.keys("seen/") == ["seen/new"]


@pytest.mark.parametrize("size", [0, 5, BLOCK_BYTES + 5])
def test_a_stream_is_an_object_when_it_ends_and_none_when_it_fails(anywhere, size):
    key = f"streams/{size}"
    with pytest.raises(KeyboardInterrupt), anywhere.writer(key) as stream:
        stream.write(b"x" * size)
        raise KeyboardInterrupt
    gc.collect()
    assert anywhere.keys("streams/") == []
    with anywhere.writer(key) as stream:
        stream.write(b"old")
    with pytest.raises(KeyboardInterrupt), anywhere.writer(key) as stream:
        stream.write(b"x" * size)
        raise KeyboardInterrupt
    assert anywhere.get(key) == b"old"
    with anywhere.writer(key) as stream:
        stream.write(b"x" * size)
    with anywhere.reader(key) as stream:
        assert stream.read(3) == b"x" * min(size, 3) and len(stream.read()) == max(size - 3, 0)
    if anywhere.address.startswith("s3://"):
        assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket="airstrip-unit")
        boto3.client("s3").delete_object(Bucket="airstrip-unit", Key=key)


def test_a_missing_stream_fails(anywhere):
    with pytest.raises(FileNotFoundError), anywhere.reader("streams/none"):
        pass


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    def cut(source, target):
        raise KeyboardInterrupt

    folder = Storage(str(tmp_path))
    folder.put("a", b"old")
    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        folder.put("a", b"new")
    assert folder.get("a") == b"old" and folder.keys("") == ["a"]


def test_an_object_is_written_with_one_request(bucket, monkeypatch):
    target = Storage(bucket)
    calls = []
    original = target._filesystem._call_s3
    monkeypatch.setattr(
        target._filesystem, "_call_s3", lambda name, *a, **k: calls.append(name) or original(name, *a, **k)
    )
    target.put("one", b"x" * 2**20)
    assert [name for name in calls if name.startswith(("put", "create", "upload", "complete"))] == ["put_object"]


def test_a_missing_bucket_names_the_fix(bucket):
    nowhere = Storage("s3://airstrip-nowhere")
    for use in (lambda: nowhere.put("a", b""), lambda: nowhere.get("a")):
        with pytest.raises(StorageRefused, match=r"no bucket.*provision.yml.*x_bucket"):
            use()


def test_a_missing_object_is_no_missing_bucket_whatever_its_name(anywhere):
    for read in (anywhere.get, anywhere.size):
        with pytest.raises(FileNotFoundError):
            read("bucket-list/none.csv")
    with pytest.raises(FileNotFoundError), anywhere.reader("bucket-list/none.csv"):
        pass


def test_a_closed_bucket_names_the_fix(bucket, monkeypatch):
    closed = Storage(bucket)

    def refuse(*_, **__):
        raise PermissionError("Forbidden")

    for name in ("pipe_file", "cat_file", "call_s3", "info"):
        monkeypatch.setattr(closed._filesystem, name, refuse)
    for use in (
        lambda: closed.put("a", b""),
        lambda: closed.get("a"),
        lambda: closed.keys("a/"),
        lambda: closed.size("a"),
    ):
        with pytest.raises(StorageRefused, match=r"AccessDenied.*provision.yml.*aws_bucket_prefixes"):
            use()
