"""What the pipeline promises of the sales that it loads into the warehouse."""

from __future__ import annotations

from etl.contract import Column, Contract

CHANNELS = ("online", "shops")
STATUSES = ("paid", "cancelled")
SALES = Contract(
    name="sales",
    version=1,
    # Even if it is delivered twice; an order and a receipt may share an id.
    key=("day", "channel", "sale_id"),
    columns=(
        Column("day", "date", "the UTC day of the sale"),
        Column("channel", "string", "where it was sold", values=CHANNELS, bytes=16),
        # Redshift counts bytes.
        Column("sale_id", "string", "the id of the order or receipt", pattern=r"[^\x00-\x1f]{1,64}", bytes=256),
        Column("sold_at", "timestamp", "when, in UTC"),
        Column("country", "string", "where to, ISO 3166", pattern="[A-Z]{2}", bytes=2),
        Column("currency", "string", "what was paid in, ISO 4217", pattern="[A-Z]{3}", bytes=3),
        Column("amount", "decimal", "what was paid; returns are below zero"),
        Column("amount_eur", "decimal", "the same in euros, at the rate of the day"),
        Column("status", "string", "what became of it", values=STATUSES, bytes=16),
    ),
)
