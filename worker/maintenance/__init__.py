"""What runs on a timer beside the loop: measure, trim, retire, purge.

May import `consumer`, `store`, `settings` and `core`.
"""
