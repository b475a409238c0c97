"""What every test may ask for: a real server, a name of its own, a client."""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from hypothesis import is_hypothesis_test
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests import servers

# Taken out of the environment, so that the product's settings under test never see it.
_SERVER_UNDER_TEST = os.environ.pop("CHATWOOT_CACHE_TEST_SERVER", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need a server, for `-m server`, and those that measure no coverage.

    Properties repeat what examples have covered, and take twice as long while they are traced.
    """
    for item in items:
        if "server_binary" in getattr(item, "fixturenames", ()):
            item.add_marker("server")
        if is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("no_cover")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The event loop that production runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def server_binary() -> Path:
    """The server under test, to be started by tests that stop, kill or restart one."""
    return Path(_SERVER_UNDER_TEST) if _SERVER_UNDER_TEST else servers.default_binary()


@pytest.fixture(scope="session")
def redis_uri(server_binary: Path) -> Iterator[str]:
    """A server shared by the whole session: nobody stops or flushes it."""
    with servers.Server(server_binary) as server:
        yield server.uri


@pytest.fixture
def prefix() -> str:
    """A name no other test uses: part of every key a test writes."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
async def client(redis_uri: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A raw client that never retries and answers bytes."""
    async with redis.asyncio.Redis.from_url(redis_uri, retry=Retry(NoBackoff(), 0)) as raw:
        yield raw
