"""Sockets, the HTTP server with its limits, and the answers that its applications share.

May import `ops` and `errors`.
"""
