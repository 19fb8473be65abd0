"""How many requests X takes in a window of 15 minutes, and in one of 24 hours."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

# Requests a window of 15 minutes, by credential and route.
LIMITS = {
    ("app", "users"): 300,
    ("user", "users"): 900,
    ("app", "tweets"): 10_000,
    ("user", "tweets"): 900,
    ("app", "usage"): 50,
}
DAY_SECONDS = 86_400
WINDOWS_A_DAY = 96


@dataclass
class Windows:
    """Requests in the open windows: a window starts with its first request."""

    begun: dict[tuple[str, str, int], tuple[int, int]] = field(default_factory=dict)

    def count(
        self, who: str, route: str, now: datetime, limits: dict[tuple[str, str], int], window_seconds: int
    ) -> tuple[dict[str, str], bool]:
        """Count a request; return the headers of both windows, and whether it is one too many."""
        most, over, headers = limits.get((who, route), 300), False, {}
        for prefix, limit, seconds in [
            ("x-rate-limit", most, window_seconds),
            (f"x-{who}-limit-24hour", most * WINDOWS_A_DAY, DAY_SECONDS),
        ]:
            begun, used = self.begun.get((who, route, seconds), (0, 0))
            if now.timestamp() >= begun + seconds:
                begun, used = int(now.timestamp()), 0
            self.begun[who, route, seconds] = (begun, used + 1)
            headers |= {
                f"{prefix}-limit": str(limit),
                f"{prefix}-remaining": str(max(limit - used - 1, 0)),
                f"{prefix}-reset": str(begun + seconds),
            }
            over = over or used >= limit
        return headers, over
