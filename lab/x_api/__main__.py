"""Serve the stand-in until stopped."""

from __future__ import annotations

from pathlib import Path

import lab.x_api
from lab import web
from lab.x_api.server import Server, lab_api

parser = web.parser("lab.x_api", lab.x_api.__doc__)
parser.add_argument("--token-file", type=Path, required=True)
arguments = parser.parse_args()
server = Server(lab_api(arguments.token_file.read_text()), arguments.address, arguments.port)
# OAuth signs the address that the client sees.
server.address = server.address.replace("http:", "https:")
web.serve(server, arguments.certificate, arguments.key)
