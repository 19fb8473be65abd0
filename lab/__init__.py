"""The lab: Debian machines, an S3 store and an X API stand-in on one Linux host."""
