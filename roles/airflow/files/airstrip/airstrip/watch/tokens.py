"""The token that a task shows the API server, without the seconds that importing Airflow takes."""

from __future__ import annotations

import base64
import hmac
import json
import time
import uuid
from configparser import RawConfigParser


def task_token(key: str, configuration: str) -> str:
    """Return what a task would show the API server for the next minute (airflow.api_fastapi.auth.tokens)."""
    settings = RawConfigParser()
    settings.read_string(configuration)
    now = int(time.time())
    claims = {
        "sub": str(uuid.uuid4()),
        "scope": "execution",
        "aud": settings.get("execution_api", "jwt_audience", fallback="urn:airflow.apache.org:task"),
        "iss": settings.get("api_auth", "jwt_issuer", fallback=None),
        "nbf": now,
        "iat": now,
        "exp": now + 60,
    }
    parts = ({"alg": "HS512", "typ": "JWT"}, {name: value for name, value in claims.items() if value})
    signed = b".".join(encoded(json.dumps(part).encode()) for part in parts)
    return b".".join([signed, encoded(hmac.digest(key.encode(), signed, "sha512"))]).decode()


def encoded(part: bytes) -> bytes:
    """Return a part of a token as RFC 7515 wants it."""
    return base64.urlsafe_b64encode(part).rstrip(b"=")
