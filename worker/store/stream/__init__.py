"""The stream: reading in a group, adding, trimming, dead letters; scripts lie beside their callers.

May import `settings` and `core`.
"""
