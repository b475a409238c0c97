"""Translation of Redis errors of commands on the stream."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.exceptions import ResponseError

from worker.errors import ConfigurationError
from worker.store.client import Client, translate_errors


@asynccontextmanager
async def stream_errors(client: Client, key: str) -> AsyncIterator[None]:
    """Translate errors; raises `ConfigurationError` where a key holds no stream."""
    async with translate_errors(client):
        try:
            yield
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            raise ConfigurationError(
                f"CHATWOOT_CACHE_STREAM_KEY={key} holds something else than a stream, "
                f"or {key}:dead does: choose another key"
            ) from error
