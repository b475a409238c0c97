"""How a webhook's event is made safe: onto the stream, or into the spool while Redis is away."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import anyio

from worker.errors import RedisUnavailable, SpoolError, WorkerError
from worker.web.http_error import HttpError

HOLD_S: Final = 2.0
"""How long a request waits for Redis to come back before its event goes to the disk."""

_SPOOL_S: Final = 1.0
"""What is left to the disk of the time that a request may take."""

_AT_ONCE: Final = 64
"""Events on their way to Redis: the connections that webhooks can occupy."""

_RETRY_S: Final = 0.05
_RETRY_MAX_S: Final = 0.5


class EventStream(Protocol):
    """Where events go."""

    async def add(self, fields: Mapping[str, bytes]) -> str:
        """Append an entry durably and give its id; raises RedisUnavailable or Refused."""
        ...


class Fallback(Protocol):
    """Where events wait while the stream cannot take them."""

    @property
    def away(self) -> bool:
        """Whether the stream is known to take nothing now."""
        ...

    def mark_unavailable(self, error: Exception) -> None:
        """Learn that the stream took nothing, and why; `away` holds until it takes again."""
        ...

    async def keep(self, fields: Mapping[str, bytes]) -> str:
        """Keep an event durably and give its id; raises SpoolError."""
        ...


@dataclass(frozen=True, slots=True)
class AcceptedEvent:
    """An event that is safe: its id, and where it is.

    One of Evolution's bot contact is nowhere, and has none: it may hold a pairing code.
    """

    id: str | None
    where: Literal["accepted", "spooled", "bot_contact"]


class EventAcceptor:
    """Makes events safe; without a refuge, only the stream does."""

    def __init__(self, stream: EventStream, refuge: Fallback | None) -> None:
        self._stream = stream
        self._refuge = refuge
        self._roads = anyio.CapacityLimiter(_AT_ONCE)

    async def take(self, fields: Mapping[str, bytes], deadline: float) -> AcceptedEvent:
        """Return once the event is safe; raises Rejected (503) when it is not by the deadline."""
        if self._refuge is None:
            return await self._onto_stream(fields, deadline)

        entry = await self._try_stream(self._refuge, fields, deadline)
        return entry or await self._into_refuge(self._refuge, fields, deadline)

    async def _onto_stream(self, fields: Mapping[str, bytes], deadline: float) -> AcceptedEvent:
        try:
            return await self._insist(fields, deadline)
        except TimeoutError as error:
            raise _late("the stream did not take the event in time; try again") from error
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
        self, refuge: Fallback, fields: Mapping[str, bytes], deadline: float
    ) -> AcceptedEvent | None:
        """Give the stream a moment; None when it did not take the event."""
        until = min(anyio.current_time() + HOLD_S, deadline - _SPOOL_S)
        if refuge.away or until <= anyio.current_time():
            return None

        try:
            return await self._insist(fields, until)
        except TimeoutError:
            refuge.mark_unavailable(RedisUnavailable("timeout", "Redis did not answer in time"))
        except Exception as error:  # noqa: BLE001  (whatever it is, the event must not be lost to it)
            refuge.mark_unavailable(error)
        return None

    async def _into_refuge(
        self, refuge: Fallback, fields: Mapping[str, bytes], deadline: float
    ) -> AcceptedEvent:
        try:
            with _by(deadline):
                return AcceptedEvent(await refuge.keep(fields), "spooled")
        except TimeoutError as error:
            raise _late("neither the stream nor the spool took the event in time") from error
        except SpoolError as error:
            raise HttpError(503, error.reason, str(error)) from error

    async def _insist(self, fields: Mapping[str, bytes], deadline: float) -> AcceptedEvent:
        """Add to the stream, again and again while Redis is away; raises what the last try did."""
        wait_s = _RETRY_S
        with _by(deadline):
            while True:
                try:
                    async with self._roads:
                        return AcceptedEvent(await self._stream.add(fields), "accepted")
                except RedisUnavailable:
                    if anyio.current_time() + wait_s >= deadline:
                        raise
                # A short absence must not cost an event: Chatwoot would not send it again.
                await anyio.sleep(wait_s)
                wait_s = min(2 * wait_s, _RETRY_MAX_S)


def _by(deadline: float) -> AbstractContextManager[anyio.CancelScope]:
    return anyio.fail_after(max(0.0, deadline - anyio.current_time()))


def _late(message: str) -> HttpError:
    return HttpError(503, "timeout", message)
