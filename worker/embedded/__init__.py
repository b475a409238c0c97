"""The Valkey server for a laptop, and its data directory. May import `settings` and `errors`."""
