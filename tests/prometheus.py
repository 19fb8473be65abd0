"""Debian's Prometheus beside a server, with the shipped settings: it reads the server's figures through nginx."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from urllib.parse import urlencode

from tests.server import ROOT, Server

EXAMPLES = ROOT / "examples/prometheus"
FOLDER = "/etc/prometheus"
ASK = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9090/api/v1/{}?' + {}).read().decode())"


@contextlib.contextmanager
def beside(server: Server, password: str) -> Iterator[None]:
    """While it is entered, Prometheus runs on the server's own host."""
    server.run("DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends prometheus")
    settings = (EXAMPLES / "prometheus.yml").read_text().replace("airflow.example.com", server.address)
    put(server, f"{FOLDER}/prometheus.yml", settings.replace("interval: 30s", "interval: 5s"))
    put(server, f"{FOLDER}/rules.yml", (EXAMPLES / "rules.yml").read_text())
    put(server, f"{FOLDER}/airstrip_password", password)
    # An instance does not reach its own public address.
    server.run(f"ip address replace {server.address}/32 dev lo")
    server.run(f"cp /etc/nginx/tls/certificate.pem {FOLDER}/airstrip.pem && systemctl restart prometheus")
    yield
    server.run(f"apt-get purge --yes prometheus; ip address delete {server.address}/32 dev lo")


def put(server: Server, path: str, text: str) -> None:
    server.run(f"cat > {path}", stdin=text)


def asked(server: Server, expression: str, **span: object) -> list[dict]:
    """What Prometheus answers; with `start`, `end` and `step`, of that time."""
    where = "query_range" if span else "query"
    question = json.dumps(urlencode({"query": expression, **span}))
    said = server.run("python3 -", stdin=ASK.format(where, question), check=False)
    return json.loads(said)["data"]["result"] if said.startswith('{"status":"success"') else []
