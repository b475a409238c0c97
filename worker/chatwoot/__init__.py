"""Clients of Chatwoot's and Evolution's REST APIs, backfill and read-through.

The only package that speaks HTTP to others. May import `store`, `settings` and `core`.
"""
