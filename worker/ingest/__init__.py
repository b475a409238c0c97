"""The webhook endpoint: who may post, and how an event is made durable.

May import `web`, `store`, `settings` and `core`.
"""
