"""`make lab`, as a newcomer types it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import requests

from lab import disk, services
from tests.e2e.conftest import kept_host
from tests.server import ROOT


@pytest.fixture(scope="module")
def make(lab):
    """Run make for this group's lab and return what it printed; its machine starts from the kept host."""
    disk.start_from(lab, "airstrip", kept_host(lab))
    # Not what the make that runs these tests tells its children.
    ambient = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}

    def make(target: str) -> str:
        result = subprocess.run(
            ["make", target],
            cwd=ROOT,
            env={**ambient, **lab.environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert result.returncode == 0, result.stdout[-6000:]
        return result.stdout

    return make


def test_it_ends_with_where_to_look_and_what_was_made(lab, make):
    said = make("lab")
    closing = said[said.rindex("\nUI ") :]
    address = re.search(r"(?m)^UI +(https://\S+)/$", closing)[1]
    session = requests.Session()
    session.trust_env = False
    assert session.get(f"{address}/api/v2/version", verify=str(services.authority(lab))).status_code == 200
    assert re.search(r"(?m)^user +admin$", closing)
    assert re.search(r"(?m)^password +make lab-ssh, then: sudo cat /etc/airflow/secrets/admin_password$", closing)
    assert re.search(r"(?m)^posts +21 of \d{4}-\d\d-\d\d, bought for 0\.1[34] USD$", closing)
    s3 = services.client(lab, "s3")
    keys = re.findall(r"(?m)^S3 key +s3://([^/]+)/(\S+posts\.csv)$", closing)
    assert len(keys) == 3
    for bucket, key in keys:
        assert s3.head_object(Bucket=bucket, Key=key)["ContentLength"] > 0
    bucket, key, folder = re.search(
        r"(?m)^report +s3://([^/]+)/(\S+report\.txt); mails lie in (\S+)$", closing
    ).groups()
    report = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
    assert all(f"  {line}" in closing for line in report.splitlines()) and len(list(Path(folder).iterdir())) == 1


def test_the_doctor_is_content(make):
    said = make("lab-check")
    assert said.count("- ok ") == 14 and "FAIL" not in said


def test_nothing_is_left_of_it(lab, make):
    make("lab-down")
    assert not lab.state.exists() and not Path("/sys/class/net", lab.bridge).exists()
    left = subprocess.run(["pgrep", "--full", f"{lab.state}/"], text=True, capture_output=True, check=False).stdout
    assert left == ""
    tables = subprocess.run(["nft", "list", "tables"], text=True, capture_output=True, check=True).stdout
    assert f"airstrip_{lab.name}\n" not in tables
