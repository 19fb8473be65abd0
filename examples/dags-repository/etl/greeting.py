"""Imports no Airflow, so tests need none."""


def greeting(name: str) -> str:
    """Return a greeting."""
    return f"Hello, {name}!"
