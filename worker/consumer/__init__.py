"""The loop that reads entries, settles them and acknowledges them.

May import `store`, `settings` and `core`.
"""
