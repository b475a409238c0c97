"""Outages met by many tasks at once are told to each of them."""

import anyio
from redis.exceptions import ConnectionError as Lost

from worker.errors import Unavailable
from worker.store.connect import connect, translated


async def test_who_gives_up_during_an_outage_cancels_nobody_else(redis_uri: str) -> None:
    """All close the same idle connections; one that is cancelled at it must not be felt."""
    told = 0
    async with connect(redis_uri) as client:

        async def meet_an_outage(patience_s: float) -> None:
            nonlocal told
            with anyio.move_on_after(patience_s):
                try:
                    async with translated(client):
                        raise Lost("gone")
                except Unavailable:
                    told += patience_s > 1

        async with anyio.create_task_group() as tasks:
            for _ in range(60):
                tasks.start_soon(client.ping)
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(meet_an_outage, 10 if number % 2 else 0.0005 * (number % 5))
    assert told == 10
