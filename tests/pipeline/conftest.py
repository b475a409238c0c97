"""A rig for each test, on the shared server."""

from collections.abc import AsyncIterator

import pytest

from tests.pipeline.rig import Rig, rigged


@pytest.fixture
async def rig(redis_uri: str, prefix: str) -> AsyncIterator[Rig]:
    async with rigged(redis_uri, prefix) as rig:
        yield rig
