"""The webhook endpoint: authentication, limits, and storing each event durably.

May import `web`, `store`, `embedded`, `ops`, `core` and `errors`.
"""
