"""Objects in a local folder or in an S3 bucket, each written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import fsspec

from etl.errors import PermanentError

PARTIAL = ".partial"
# How much of an object a stream holds in memory.
BLOCK_BYTES = 8 * 2**20


class StorageRefused(PermanentError):
    """The bucket or folder is missing or closed to this host; the message says what to change."""


class Storage:
    """The objects below `address`, which is a folder or s3://BUCKET, perhaps with a prefix."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._s3 = address.startswith("s3://")
        # Listings must show what another task has just written.
        options: dict[str, Any] = {"use_listings_cache": False} if self._s3 else {"auto_mkdir": True}
        self._filesystem = fsspec.filesystem("s3" if self._s3 else "file", **options)
        self._blocks: dict[str, Any] = {"block_size": BLOCK_BYTES} if self._s3 else {}

    def put(self, key: str, content: bytes) -> str:
        """Write one object and return its address. Raises StorageRefused; IOError where less arrived."""
        path = self._path(key)
        with self._explained(path):
            if self._s3:
                # One PUT: an open file would be committed half-written if its writer fails.
                self._filesystem.pipe_file(path, content)
            else:
                self._filesystem.pipe_file(path + PARTIAL, content)
                os.replace(path + PARTIAL, path)
        return f"{self.address}/{key}"

    def get(self, key: str) -> bytes:
        """Read one object. Raises FileNotFoundError, StorageRefused."""
        with self._explained(self._path(key), reads=True):
            return self._filesystem.cat_file(self._path(key))

    @contextmanager
    def reader(self, key: str) -> Iterator[BinaryIO]:
        """Open an object to be read in pieces. Raises FileNotFoundError, StorageRefused."""
        path = self._path(key)
        with self._explained(path, reads=True):
            stream = self._filesystem.open(path, "rb", **self._blocks)
        with stream:
            yield stream

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        """Open an object to be written in pieces; it exists once the block ends, unless the block fails."""
        path = self._path(key)
        with self._explained(path):
            stream = self._filesystem.open(path if self._s3 else path + PARTIAL, "wb", **self._blocks)
        try:
            yield stream
        except BaseException:
            if self._s3:
                stream.discard()
                # An open one would still be committed when Python lets go of it.
                stream.closed = True
            else:
                stream.close()
            raise
        with self._explained(path):
            stream.close()
        if not self._s3:
            os.replace(path + PARTIAL, path)

    def size(self, key: str) -> int:
        """The bytes of an object. Raises FileNotFoundError, StorageRefused."""
        with self._explained(self._path(key), reads=True):
            return int(self._filesystem.info(self._path(key))["size"])

    def keys(self, prefix: str) -> list[str]:
        """The keys below a prefix that ends with a slash, in order. Raises StorageRefused."""
        root = self._path("")
        with self._explained(self._path(prefix)):
            found = list(self._listed(prefix)) if self._s3 else self._filesystem.find(self._path(prefix))
        return sorted(path[len(root) :] for path in found if not path.endswith(PARTIAL))

    def _listed(self, prefix: str) -> Iterator[str]:
        # Not find(): it asks for the prefix as an object too, which a role that may list a prefix alone is refused.
        bucket, _, top = self._path(prefix).partition("/")
        request = {"Bucket": bucket, "Prefix": top}
        while True:
            page = self._filesystem.call_s3("list_objects_v2", **request)
            yield from (f"{bucket}/{entry['Key']}" for entry in page.get("Contents", []))
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _path(self, key: str) -> str:
        top = self.address.removeprefix("s3://") if self._s3 else os.path.abspath(self.address)
        return f"{top}/{key}"

    @contextmanager
    def _explained(self, path: str, reads: bool = False) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            # On S3 the bucket or the object may be missing; a path may contain the word bucket, too.
            said = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
            if reads and said != "NoSuchBucket":
                raise
            raise StorageRefused(
                f"there is no bucket for {path} ({error}): make it with playbooks/provision.yml, or correct "
                "airflow_variables.x_bucket (of the report: report_bucket)"
            ) from error
        except PermissionError as error:
            raise StorageRefused(
                f"this host may not use {path} (AccessDenied: {error}): give its role the policy again with "
                "playbooks/provision.yml, add the prefix to aws_bucket_prefixes, or correct airflow_variables.x_bucket "
                "(of the report: report_bucket)"
            ) from error
