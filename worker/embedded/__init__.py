"""The Valkey server for a laptop, and the directory it lives in. May import `settings` and `errors`."""
