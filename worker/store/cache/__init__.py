"""Documents and bindings, in Redis and in memory. Lua scripts stand beside their callers."""
