"""Examine a release with the packages, variables and connections of this host, before it goes live.

`python -m airstrip.gate FOLDER` prints a JSON object: `dags` (DAG id to file), `problems` (a line each) and `files`
(file to `seconds` and `mb`). With _AIRFLOW_PROCESS_CONTEXT=server a DAG file may ask the database for variables and
connections, as it may in the DAG processor; AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT says how many seconds it may take.

`python -m airstrip.gate --offline SOURCE` does the same with a folder or a checkout on a laptop, for people to read.
What only the host knows is not asked there: its connections, pools and unfinished runs.
"""

from __future__ import annotations

import argparse
import gc
import getpass
import json
import sys
import tempfile
from pathlib import Path

from airstrip.release.pack import pack
from airstrip.release.tree import Refused
from airstrip.release.unpack import unpack


def main() -> int:
    """Examine what is named; return the exit code."""
    parser = argparse.ArgumentParser(prog="airstrip.gate", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--offline", action="store_true", help="a folder that was not shipped yet")
    parser.add_argument("--megabytes", type=int, default=500, help="that one file may take")
    parser.add_argument("--most-mb", type=int, default=500, help="that a release may have")
    given = parser.parse_args()
    # Airflow's modules are never garbage, and looking for some among them takes half of the time.
    gc.disable()
    from airstrip.gate.verdict import examine

    if not given.offline:
        print(json.dumps(examine(given.folder.resolve(), given.megabytes)))
        return 0
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryFile() as archive:
        release = Path(temporary).resolve() / "release"
        try:
            pack(given.folder.resolve(), archive, getpass.getuser(), given.most_mb)
            archive.seek(0)
            unpack(archive, release, given.most_mb)
        except Refused as error:
            print(error)
            return 1
        answer = examine(release, given.megabytes, offline=True)
    for name, took in sorted(answer["files"].items()):
        print(f"{name}: {took['seconds']} s, {took['mb']} MB")
    print("\n".join(answer["problems"] or [f"{len(answer['dags'])} DAGs would go live"]))
    return bool(answer["problems"])


if __name__ == "__main__":
    sys.exit(main())
