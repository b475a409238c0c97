"""The edge to Redis for all that concerns the stream."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.exceptions import ResponseError

from worker.errors import Misconfigured
from worker.store.connect import Client, translated


@asynccontextmanager
async def told(client: Client, key: str) -> AsyncIterator[None]:
    """Turn Redis' errors into ours, and say so where a key holds something else than a stream."""
    async with translated(client):
        try:
            yield
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            raise Misconfigured(
                f"CHATWOOT_CACHE_STREAM_KEY={key} holds something else than a stream, "
                f"or {key}:dead does: choose another key"
            ) from error
