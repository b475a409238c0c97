"""What `connect` does: discovers, matches and binds inboxes, sets up webhooks, saves settings.

May import the clients of `chatwoot`, `store`, `settings` and `core`.
"""
