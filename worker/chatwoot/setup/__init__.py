"""What `connect` does: discovers, matches and binds inboxes, sets up webhooks, saves settings."""
