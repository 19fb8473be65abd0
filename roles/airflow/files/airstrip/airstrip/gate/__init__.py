"""The gate: what is wrong with a release before it goes live, by file and line."""
