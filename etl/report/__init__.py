"""The business report of a UTC day: sources, cleaning, one table, the warehouse, the numbers, a mail."""
