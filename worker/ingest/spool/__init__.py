"""Stores webhooks on disk while Redis is unavailable, and relays them to the stream later."""
