"""The hand-checked answer to the three days of lab/shop/days: what the warehouse holds, and what was refused."""

from __future__ import annotations

from datetime import date

# By turn of the day: channel, number of the sale, hour, country, currency, amount, EUR, status. One euro is
# 0.945 CHF, 0.8543 GBP, 4.2536 PLN and 1.0842 USD.
SALES = {
    1: [
        ("online", "-01", "00:00:00", "DE", "EUR", "1234.50", "1234.50", "paid"),
        ("online", "-02", "08:15:00", "FR", "EUR", "80.00", "80.00", "paid"),
        ("online", "-03", "09:30:00", "US", "USD", "108.42", "100.00", "paid"),
        ("online", "-04", "12:00:00", "PL", "PLN", "1000.00", "235.09", "cancelled"),
        ("online", "-05", "15:20:00", "GB", "GBP", "5.01", "5.86", "paid"),
        ("online", "-06", "23:59:59", "DE", "EUR", "19.90", "19.90", "paid"),
        ("shops", "Köln--1", "11:05:00", "DE", "EUR", "1299.00", "1299.00", "paid"),
        ("shops", "Köln--2", "12:30:00", "DE", "EUR", "-49.90", "-49.90", "paid"),
        ("shops", "Zürich--1", "09:01:00", "CH", "CHF", "1250.00", "1322.75", "paid"),
        ("shops", "Zürich--2", "10:40:00", "CH", "CHF", "94.50", "100.00", "paid"),
    ],
    2: [
        ("online", "-01", "07:45:00", "DE", "EUR", "204.00", "204.00", "paid"),
        ("online", "-02", "10:00:00", "AT", "EUR", "2000.50", "2000.50", "paid"),
        ("online", "-03", "13:37:00", "GB", "GBP", "85.43", "100.00", "paid"),
        ("online", "-04", "21:10:00", "US", "USD", "1084.20", "1000.00", "paid"),
        ("shops", "Wien--1", "10:00:00", "AT", "EUR", "59.95", "59.95", "paid"),
        ("shops", "Wien--2", "17:59:00", "AT", "EUR", "140.05", "140.05", "paid"),
        ("shops", "Łódź--1", "08:30:00", "PL", "PLN", "425.36", "100.00", "paid"),
        ("shops", "Łódź--2", "07:45:00", "PL", "PLN", "1063.40", "250.00", "paid"),
    ],
    3: [
        ("online", "-01", "06:00:00", "DE", "EUR", "99.99", "99.99", "paid"),
        ("online", "-07", "12:00:00", "FR", "EUR", "300.01", "300.01", "paid"),
        ("shops", "Wien--1", "09:00:00", "AT", "EUR", "100.00", "100.00", "paid"),
        ("shops", "Wien--2", "09:30:00", "AT", "EUR", "0.50", "0.50", "paid"),
        ("shops", "Zürich--1", "16:00:00", "CH", "CHF", "4725.00", "5000.00", "paid"),
    ],
}

# Sales and revenue of each channel, without what was cancelled.
TOTALS = {
    1: {"online": (5, "1440.26"), "shops": (4, "2671.85")},
    2: {"online": (4, "3304.50"), "shops": (4, "550.00")},
    3: {"online": (2, "400.00"), "shops": (3, "5100.50")},
}

REFUSED = {
    1: {
        "online": (8, {}),
        "shops": (7, {"3 cells instead of 6": 1, "of another day": 1, "the amount cannot be read": 1}),
    },
    2: {"online": (5, {}), "shops": (5, {})},
    3: {
        "online": (
            7,
            {
                "no exchange rate": 1,
                "no id": 1,
                "the amount cannot be read": 1,
                "the country is not two letters": 1,
                "the status is not known": 1,
            },
        ),
        "shops": (3, {}),
    },
}


def sales(day: date, turn: int) -> list[tuple[str, ...]]:
    """Return the rows of a day, in the order of channel and id."""
    found = []
    for channel, number, hour, *rest in SALES[turn]:
        place, _, last = number.rpartition("-")
        identifier = f"{place}{day:%y%m%d}-{last}" if place else f"{day:%y%m%d}-{last}"
        found.append((str(day), channel, identifier, f"{day} {hour}", *rest))
    return sorted(found, key=lambda row: row[1:3])
