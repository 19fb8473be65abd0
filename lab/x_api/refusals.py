"""How the API refuses: a whole request, one of its parameters, or one resource of many."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

PROBLEMS = {"tweet": "https://api.twitter.com/2/problems", "post": "https://api.x.com/2/problems"}


class Refused(Exception):
    """An answer that is an error of the whole request."""

    def __init__(self, status: int, body: dict, headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers or {}


def _refusal(code: int, **body: object) -> Callable[[], Refused]:
    return lambda: Refused(code, dict(body))


def cap() -> Refused:
    body = {
        "account_id": 1,
        "product_name": "standard-basic",
        "title": "UsageCapExceeded",
        "period": "Monthly",
        "scope": "Product",
        "detail": "Usage cap exceeded: Monthly product cap",
        "type": f"{PROBLEMS['tweet']}/usage-capped",
    }
    return Refused(429, body, {"x-rate-limit-remaining": "39999"})


def _client_forbidden() -> Refused:
    body = {
        "client_id": "1",
        "detail": "When authenticating requests to the Twitter API v2 endpoints, you must use keys and tokens from a "
        "Twitter developer App that is attached to a Project. You can create a project via the developer portal.",
        "registration_url": "https://developer.twitter.com/en/docs/projects/overview",
        "title": "Client Forbidden",
        "required_enrollment": "Appropriate Level of API Access",
        "reason": "client-not-enrolled",
        "type": f"{PROBLEMS['tweet']}/client-forbidden",
    }
    return Refused(403, body)


def credits() -> Refused:
    body = {
        "title": "CreditsDepleted",
        "detail": "Your enrolled account [1] does not have any credits to fulfill this request.",
        "type": f"{PROBLEMS['tweet']}/credits",
        "account_id": 1,
    }
    return Refused(402, body)


TOO_MANY = {"title": "Too Many Requests", "detail": "Too Many Requests", "type": "about:blank", "status": 429}
REFUSALS: dict[str, Callable[[], Refused]] = {
    "rate_limited": _refusal(429, **TOO_MANY),
    "rate_limited_88": _refusal(429, errors=[{"code": 88, "message": "Rate limit exceeded"}]),
    "rate_limited_day": lambda: Refused(429, dict(TOO_MANY), {"x-app-limit-24hour-remaining": "0"}),
    "usage_capped": cap,
    "credits_depleted": credits,
    "unauthorized": _refusal(401, title="Unauthorized", type="about:blank", status=401, detail="Unauthorized"),
    "client_forbidden": _client_forbidden,
    "over_capacity": _refusal(503, errors=[{"message": "Over capacity", "code": 130}]),
    "unavailable": _refusal(503, title="Service Unavailable", type="about:blank", status=503),
    "server_error": _refusal(500, title="Internal Server Error", type="about:blank", status=500),
}


def exhausted(reset: str, now: datetime) -> dict[str, str]:
    """The headers of a scripted rate limit: `true`, `missing`, or a number of seconds from now."""
    headers = {"x-rate-limit-remaining": "0"}
    if reset == "missing":
        return {**headers, "x-rate-limit-reset": ""}
    return headers if reset == "true" else {**headers, "x-rate-limit-reset": str(int(now.timestamp()) + int(reset))}


def invalid(parameter: str, value: str, message: str) -> Refused:
    body = {
        "errors": [{"parameters": {parameter: [value]}, "message": message}],
        "title": "Invalid Request",
        "detail": "One or more parameters to your request was invalid.",
        "type": f"{PROBLEMS['tweet']}/invalid-request",
    }
    return Refused(400, body)


def missing(parameter: str, value: str, title: str, detail: str, dialect: str) -> dict[str, str]:
    """An error of one resource in an answer of status 200."""
    return {
        "value": value,
        "detail": detail,
        "title": title,
        "resource_type": "user",
        "parameter": parameter,
        "resource_id": value,
        "type": f"{PROBLEMS[dialect]}/resource-not-found",
    }


def gone_post(number: str, dialect: str) -> dict[str, str]:
    """The error of a post that another refers to, and that was deleted, beside the posts of a page."""
    parameter = "referenced_posts" if dialect == "post" else "referenced_tweets.id"
    return {
        **missing(parameter, number, "Not Found Error", f"Could not find {dialect}: [{number}].", dialect),
        "resource_type": dialect,
    }
