"""The stream: reading as a member of a group, adding, trimming, dead letters.

Scripts lie beside their callers.
"""
