"""The shop: exchange rates by HTTP, and the password of its orders; the orders are lab/shop/database.py."""

from __future__ import annotations

from lab.services.secret import secret, word
from lab.services.server import web
from lab.settings import RATES_PORT, Lab


def rates_endpoint(lab: Lab) -> str:
    return f"https://{lab.gateway}:{RATES_PORT}"


def orders_password(lab: Lab) -> str:
    """The password for reading the shop's orders, created once."""
    return secret(lab, "orders_password", lambda: word(32))


def up(lab: Lab) -> None:
    """Start the server of the exchange rates."""
    web(lab, "shop", RATES_PORT)
