"""Translation of connection errors."""

import pytest

from worker.errors import RedisUnavailable
from worker.store.client import create_client, translate_errors


async def test_a_connection_that_was_cut_before_a_command_is_an_outage(redis_uri: str) -> None:
    """Neither asyncio nor the library call it one; the next command has a new connection."""
    async with create_client(redis_uri) as client:
        await client.ping()
        (connection,) = client.connection_pool._available_connections
        connection._writer.transport.abort()
        with pytest.raises(RedisUnavailable) as caught:
            async with translate_errors(client):
                await client.ping()

        assert caught.value.kind == "connection"
        assert await client.ping()


async def test_a_script_that_is_gone_again_is_an_outage(redis_uri: str) -> None:
    """It was loaded a moment before: on another server, or somebody flushed it."""
    async with create_client(redis_uri) as client:
        with pytest.raises(RedisUnavailable) as caught:
            async with translate_errors(client):
                await client.evalsha("0" * 40, 0)

    assert caught.value.kind == "noscript"


async def test_a_defect_of_ours_is_none(redis_uri: str) -> None:
    async with create_client(redis_uri) as client:
        with pytest.raises(RuntimeError, match="ours"):
            async with translate_errors(client):
                raise RuntimeError("ours")
