"""The read endpoints. May import `web`, `store`, `settings` and `core`."""
