"""The one retry: a step is done again and again while Redis is away, and nothing else is begun."""

import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio
import structlog

from worker.errors import GroupMissing, RedisUnavailable
from worker.ops.logs import LogThrottle
from worker.ops.metrics import Metrics

log = structlog.get_logger()

T = TypeVar("T")

_BACKOFF_S: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 2.0)


class Stopped(Exception):
    """Told to stop while Redis was away."""


class Retry:
    """Waits for Redis; `outage` says why it cannot be used now, `progressed_at` that we live on.

    `first_attempt` is set by the first outage, and by whoever knows that all goes well.
    """

    def __init__(
        self, metrics: Metrics, *, on_group_missing: Callable[[], Awaitable[None]]
    ) -> None:
        self._metrics = metrics
        self._on_group_missing = on_group_missing
        self._throttle = LogThrottle(10.0)
        self._troubles: dict[object, RedisUnavailable] = {}
        self._over = anyio.Event()
        self._is_said = False
        self.stop = anyio.Event()
        self.first_attempt = anyio.Event()
        self.progressed_at = time.monotonic()

    @property
    def outage(self) -> RedisUnavailable | None:
        """Why Redis cannot be used now, None when it can."""
        return next(iter(self._troubles.values()), None)

    async def call(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do a step until it succeeds; raises `Stopped` when told to stop while it cannot.

        When the consumer group is missing, that is mended before the step is done again.
        """
        tries = 0
        trying = object()
        try:
            while True:
                self.progressed_at = time.monotonic()
                try:
                    result = await step()
                except GroupMissing as error:
                    self._say("group.lost", "group", error=str(error))
                    await self._on_group_missing()
                    if self.stop.is_set():
                        raise Stopped from None
                except RedisUnavailable as error:
                    self._troubles[trying] = error
                    await self._wait(error, tries)
                    tries += 1
                else:
                    self._recovered(trying)
                    return result
        finally:
            self._leave(trying)

    async def wait_until_healthy(self) -> None:
        """Return once no step is being tried again."""
        while self._troubles:
            await self._over.wait()

    async def pause(self, seconds: float) -> bool:
        """Wait, no longer than until told to stop; says whether that came."""
        with anyio.move_on_after(seconds):
            await self.stop.wait()
        return self.stop.is_set()

    async def _wait(self, error: RedisUnavailable, tries: int) -> None:
        self.first_attempt.set()
        self._metrics.redis_up.set(0)
        self._metrics.redis_errors.labels(kind=error.kind).inc()
        if self._say("redis.unavailable", error.kind, kind=error.kind, error=str(error)):
            self._is_said = True
        if await self.pause(_BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)] * jitter()):
            raise Stopped

    def _recovered(self, trying: object) -> None:
        outage = self._leave(trying)
        if self._troubles:
            return
        self._metrics.redis_up.set(1)
        if outage is not None and self._is_said:
            self._is_said = False
            log.info("redis.recovered", after=outage.kind)

    def _leave(self, trying: object) -> RedisUnavailable | None:
        """Take back what trouble a step had, however it ended, and let go on who waited for it."""
        outage = self._troubles.pop(trying, None)
        if outage is not None and not self._troubles:
            self._over.set()
            self._over = anyio.Event()
        return outage

    def _say(self, event: str, cause: str, **details: str) -> bool:
        count = self._throttle.ready(cause)
        if count is not None:
            log.warning(event, suppressed=count, **details)
        return count is not None


def jitter() -> float:
    """Return a factor around 1, so that not all workers do the same at once."""
    return random.uniform(0.8, 1.2)  # noqa: S311 - nothing to guess here
