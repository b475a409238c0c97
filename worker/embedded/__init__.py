"""The Valkey server for a laptop, and its directory. May import `settings` and `errors`."""
