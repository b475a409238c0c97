"""Makes an event durable: in the stream, or in the spool while Redis is unavailable."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import anyio

from worker.errors import RedisUnavailable, SpoolError, WorkerError
from worker.ingest.spool.spool_relay import SpoolRelay
from worker.store.backoff import Backoff
from worker.store.stream.stream_reader import StreamProducer
from worker.web.http_error import HttpError

STREAM_WAIT_S: Final = 2.0
"""How long a request waits for Redis before its event is spooled."""

_SPOOL_S: Final = 1.0
"""The part of a request's time that is reserved for the spool."""

_MAX_CONCURRENT_ADDS: Final = 64
"""Bounds the Redis connections that webhooks use."""

_RETRY_S: Final = 0.05
_RETRY_MAX_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class AcceptedEvent:
    """The answer to an event: its id, and the `reason` label of the answer.

    An event of Evolution's bot contact is not stored and has no id: it may hold a pairing code.
    """

    id: str | None
    reason: Literal["accepted", "spooled", "bot_contact"]


class EventAcceptor:
    """Stores events in the stream; in the fallback, if there is one, while that fails."""

    def __init__(self, stream: StreamProducer, fallback: SpoolRelay | None) -> None:
        self._stream = stream
        self._fallback = fallback
        self._limiter = anyio.CapacityLimiter(_MAX_CONCURRENT_ADDS)

    async def accept(self, fields: Mapping[str, bytes], deadline: float) -> AcceptedEvent:
        """Return once the event is durable; raises `HttpError` (503) where it cannot be stored.

        `deadline` is in anyio's clock; the caller cancels the call then.
        """
        if self._fallback is None:
            return await self._add_or_reject(fields, deadline)
        accepted = await self._try_stream(self._fallback, fields, deadline)
        if accepted is not None:
            return accepted
        try:
            return AcceptedEvent(await self._fallback.keep(fields), "spooled")
        except SpoolError as error:
            raise HttpError(503, error.reason, str(error)) from error

    async def _add_or_reject(self, fields: Mapping[str, bytes], deadline: float) -> AcceptedEvent:
        try:
            return await self._add(fields, deadline)
        except RedisUnavailable as error:
            raise HttpError(
                503,
                "redis_unavailable",
                "Redis cannot take the event now; see the worker's /readyz",
            ) from error
        except WorkerError as error:
            raise HttpError(
                503, "redis_refused", "Redis refuses the worker; see its log"
            ) from error

    async def _try_stream(
        self, fallback: SpoolRelay, fields: Mapping[str, bytes], deadline: float
    ) -> AcceptedEvent | None:
        """Return None, and mark the stream as unavailable, where it did not take the event."""
        until = min(anyio.current_time() + STREAM_WAIT_S, deadline - _SPOOL_S)
        if fallback.unavailable or until <= anyio.current_time():
            return None
        error: Exception = RedisUnavailable("timeout", "Redis did not answer in time")
        with anyio.CancelScope(deadline=until):
            try:
                return await self._add(fields, until)
            except Exception as failure:  # noqa: BLE001  (any error: the event must reach the spool)
                error = failure
        fallback.mark_unavailable(error)
        return None

    async def _add(self, fields: Mapping[str, bytes], deadline: float) -> AcceptedEvent:
        """Add to the stream; retry while Redis is unavailable, and raise the last error."""
        backoff = Backoff(_RETRY_S, _RETRY_MAX_S)
        while True:
            try:
                async with self._limiter:
                    return AcceptedEvent(await self._stream.add(fields), "accepted")
            except RedisUnavailable:
                delay_s = backoff.next_delay_s()
                if anyio.current_time() + delay_s >= deadline:
                    raise
            # A short outage must not cost an event: Chatwoot does not send it again.
            await anyio.sleep(delay_s)
