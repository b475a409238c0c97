"""HTTP: webhook, reads and probes."""
