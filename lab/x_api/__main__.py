"""Serve the stand-in until stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

import lab.x_api
from lab.x_api.server import Server, lab_api

parser = argparse.ArgumentParser(prog="python -m lab.x_api", description=lab.x_api.__doc__)
parser.add_argument("--address", required=True)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--certificate", required=True)
parser.add_argument("--key", required=True)
parser.add_argument("--token-file", type=Path, required=True)
arguments = parser.parse_args()
server = Server(lab_api(arguments.token_file.read_text()), arguments.address, arguments.port)
server.encrypt(arguments.certificate, arguments.key)
server.serve_forever()
