"""Sockets, the HTTP server and what the applications on it share.

May import `settings` and `errors`.
"""
