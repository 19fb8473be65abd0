"""The stand-in for the X API."""

from __future__ import annotations

from lab.services.secret import secret, word
from lab.services.server import web
from lab.settings import X_API_PORT, Lab


def endpoint(lab: Lab) -> str:
    return f"https://{lab.gateway}:{X_API_PORT}"


def bearer_token(lab: Lab) -> str:
    """The token that the X API stand-in accepts, made once."""
    return secret(lab, "x_api/bearer_token", lambda: word(40))


def up(lab: Lab) -> None:
    """Start it."""
    bearer_token(lab)
    web(lab, "x_api", X_API_PORT, "--token-file", str(lab.state / "x_api" / "bearer_token"))
