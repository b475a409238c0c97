"""Documents and bindings in Redis, and in memory. Scripts lie beside their callers."""
