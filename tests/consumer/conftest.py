"""A rig for each test, on the shared server."""

from collections.abc import AsyncIterator

import pytest

from tests.consumer.harness import Harness, harnessed


@pytest.fixture
async def rig(redis_uri: str, prefix: str) -> AsyncIterator[Harness]:
    async with harnessed(redis_uri, prefix) as rig:
        yield rig
