"""HTTP: webhook and probes."""
