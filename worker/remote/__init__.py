"""Adapters to the REST APIs of Chatwoot and Evolution; the only rooms that import httpx."""
