"""The consumer's retry: a step is repeated while Redis is unavailable."""

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


class StopRequested(Exception):
    """The worker was told to stop while Redis was unavailable."""


class Retry:
    """Repeats steps until they succeed.

    `progressed_at` is when a step last began, by the monotonic clock. `first_attempt` is set by the
    first outage, and by the caller once all goes well. `stop` ends waiting.
    """

    def __init__(
        self, metrics: Metrics, *, on_group_missing: Callable[[], Awaitable[None]]
    ) -> None:
        self._metrics = metrics
        self._on_group_missing = on_group_missing
        self._throttle = LogThrottle(10.0)
        self._outages: dict[object, RedisUnavailable] = {}
        self._healthy = anyio.Event()
        self._is_reported = False
        self.stop = anyio.Event()
        self.first_attempt = anyio.Event()
        self.progressed_at = time.monotonic()

    @property
    def outage(self) -> RedisUnavailable | None:
        """Why Redis is unavailable, None when it is not."""
        return next(iter(self._outages.values()), None)

    async def call(self, step: Callable[[], Awaitable[T]]) -> T:
        """Repeat a step until it succeeds; raises `StopRequested` when told to stop meanwhile.

        When the consumer group is missing, it is created before the step is repeated.
        """
        failures = 0
        call = object()
        try:
            while True:
                self.progressed_at = time.monotonic()
                try:
                    result = await step()
                except GroupMissing as error:
                    self._report("group.lost", "group", error=str(error))
                    await self._on_group_missing()
                    if self.stop.is_set():
                        raise StopRequested from None
                except RedisUnavailable as error:
                    self._outages[call] = error
                    await self._back_off(error, failures)
                    failures += 1
                else:
                    self._report_recovery(self._end_outage(call))
                    return result
        finally:
            self._end_outage(call)

    async def wait_until_healthy(self) -> None:
        """Return once no step is being repeated."""
        while self._outages:
            await self._healthy.wait()

    async def pause(self, seconds: float) -> bool:
        """Wait, but not longer than until told to stop; returns whether that happened."""
        with anyio.move_on_after(seconds):
            await self.stop.wait()
        return self.stop.is_set()

    async def _back_off(self, error: RedisUnavailable, failures: int) -> None:
        self.first_attempt.set()
        self._metrics.redis_up.set(0)
        self._metrics.redis_errors.labels(kind=error.kind).inc()
        if self._report("redis.unavailable", error.kind, kind=error.kind, error=str(error)):
            self._is_reported = True
        if await self.pause(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)] * jitter()):
            raise StopRequested

    def _end_outage(self, call: object) -> RedisUnavailable | None:
        """Remove a call's outage, if it had one, and wake those that wait for the last one."""
        outage = self._outages.pop(call, None)
        if outage is not None and not self._outages:
            self._healthy.set()
            self._healthy = anyio.Event()
        return outage

    def _report_recovery(self, outage: RedisUnavailable | None) -> None:
        if self._outages:
            return
        self._metrics.redis_up.set(1)
        if outage is not None and self._is_reported:
            self._is_reported = False
            log.info("redis.recovered", after=outage.kind)

    def _report(self, event: str, cause: str, **details: str) -> bool:
        suppressed = self._throttle.ready(cause)
        if suppressed is not None:
            log.warning(event, suppressed=suppressed, **details)
        return suppressed is not None


def jitter() -> float:
    """Return a random factor between 0.8 and 1.2, so that workers do not act at the same time."""
    return random.uniform(0.8, 1.2)  # noqa: S311 - nothing to guess here
