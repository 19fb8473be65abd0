"""Who asks: the bearer token of an app, or the OAuth 1.0a signature of a user."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest
from types import SimpleNamespace
from urllib.parse import unquote

from oauthlib.oauth1.rfc5849 import signature, utils

# Clients sign the public address, but are redirected here.
HOSTS = ("https://api.twitter.com", "https://api.x.com")
SKEW_SECONDS = 300


@dataclass(frozen=True)
class Keys:
    """What an app and one user of it got from the developer portal."""

    bearer_token: str
    consumer_key: str = ""
    consumer_secret: str = ""
    access_token: str = ""
    access_token_secret: str = ""


def credential(keys: Keys, headers: Mapping[str, str], own: str, path: str, query: str, nonces: set[str]) -> str | None:
    """Return `app` or `user`, or None for neither; remember the nonce of a signature."""
    header = headers.get("Authorization", "")
    if header.startswith("Bearer "):
        return "app" if compare_digest(header.encode(), f"Bearer {keys.bearer_token}".encode()) else None
    if not header.startswith("OAuth ") or not keys.consumer_key:
        return None
    given = {name: unquote(value) for name, value in utils.parse_authorization_header(header)}
    nonce = f"{given.get('oauth_nonce')} {given.get('oauth_timestamp')}"
    fresh = nonce not in nonces and abs(time.time() - int(given.get("oauth_timestamp") or 0)) <= SKEW_SECONDS
    known = (given.get("oauth_consumer_key"), given.get("oauth_token")) == (keys.consumer_key, keys.access_token)
    if not (fresh and known and given.get("oauth_signature_method") == "HMAC-SHA1"):
        return None
    parameters = signature.collect_parameters(uri_query=query, headers={"Authorization": header})
    for host in (*HOSTS, own):
        request = SimpleNamespace(
            params=parameters, http_method="GET", uri=host + path, signature=given.get("oauth_signature", "")
        )
        if signature.verify_hmac_sha1(request, keys.consumer_secret, keys.access_token_secret):
            nonces.add(nonce)
            return "user"
    return None
