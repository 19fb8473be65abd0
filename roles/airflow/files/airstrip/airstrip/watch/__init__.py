"""Look at this host each minute, and tell somebody what is wrong. Standard library only."""
