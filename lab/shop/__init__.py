"""A shop that the lab invents: its orders, its shops' receipts and the exchange rates, with dirty data."""
