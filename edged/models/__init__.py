"""Models from outside: what may be fetched, whether it is genuine, and where it is kept."""
