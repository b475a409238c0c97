"""What must stay flat: the memory of the worker that nobody kills, and the stream's length."""

import contextlib

import anyio
import redis

from tests.e2e.place import Place
from tests.soak.worker_pool import WorkerPool


class Gauges:
    """What was seen, once a second."""

    def __init__(self) -> None:
        self.rss: list[int] = []
        self.lengths: list[int] = []

    async def watch(self, crew: WorkerPool, place: Place) -> None:
        """Look until cancelled; while the server is away, at the memory alone."""
        while True:
            # A worker that ended is missed by `Crew.keep_up`, and has no memory until then.
            with contextlib.suppress(OSError, ValueError):
                self.rss.append(crew.steady.rss_now_bytes)
            with contextlib.suppress(redis.RedisError):
                self.lengths.append(place.length())
            await anyio.sleep(1)
