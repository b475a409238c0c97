"""Adapters to Redis; the only rooms that import its client."""
