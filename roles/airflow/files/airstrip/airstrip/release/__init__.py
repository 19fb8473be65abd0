"""Releases: what `airstrip release` does on a host. Standard library only: it runs before the first virtualenv."""
