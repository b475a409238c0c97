"""The read endpoints. May import `web`, `chatwoot`, `store`, `settings` and `core`."""
