"""How a webhook's event is made safe: onto the stream, or into the spool while Redis is away."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import anyio

from worker.errors import Error, Unavailable, Unspooled
from worker.web.rejection import Rejected

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
        """Append an entry durably and give its id; raises Unavailable or Refused."""
        ...


class Refuge(Protocol):
    """Where events wait while the stream cannot take them."""

    @property
    def away(self) -> bool:
        """Whether the stream is known to take nothing now."""
        ...

    def note_away(self, error: Exception) -> None:
        """Learn that the stream took nothing, and why; `away` holds until it takes again."""
        ...

    async def keep(self, fields: Mapping[str, bytes]) -> str:
        """Keep an event durably and give its id; raises Unspooled."""
        ...


@dataclass(frozen=True, slots=True)
class Taken:
    """An event that is safe: its id, and where it is.

    One of Evolution's bot contact is nowhere, and has none: it may hold a pairing code.
    """

    id: str | None
    where: Literal["accepted", "spooled", "bot_contact"]


class Intake:
    """Makes events safe; without a refuge, only the stream does."""

    def __init__(self, stream: EventStream, refuge: Refuge | None) -> None:
        self._stream = stream
        self._refuge = refuge
        self._roads = anyio.CapacityLimiter(_AT_ONCE)

    async def take(self, fields: Mapping[str, bytes], deadline: float) -> Taken:
        """Return once the event is safe; raises Rejected (503) when it is not by the deadline."""
        if self._refuge is None:
            return await self._onto_stream(fields, deadline)

        entry = await self._try_stream(self._refuge, fields, deadline)
        return entry or await self._into_refuge(self._refuge, fields, deadline)

    async def _onto_stream(self, fields: Mapping[str, bytes], deadline: float) -> Taken:
        try:
            return await self._insist(fields, deadline)
        except TimeoutError as error:
            raise _late("the stream did not take the event in time; try again") from error
        except Unavailable as error:
            raise Rejected(
                503,
                "redis_unavailable",
                "Redis cannot take the event now; see the worker's /readyz",
            ) from error
        except Error as error:
            raise Rejected(503, "redis_refused", "Redis refuses the worker; see its log") from error

    async def _try_stream(
        self, refuge: Refuge, fields: Mapping[str, bytes], deadline: float
    ) -> Taken | None:
        """Give the stream a moment; None when it did not take the event."""
        until = min(anyio.current_time() + HOLD_S, deadline - _SPOOL_S)
        if refuge.away or until <= anyio.current_time():
            return None

        try:
            return await self._insist(fields, until)
        except TimeoutError:
            refuge.note_away(Unavailable("timeout", "Redis did not answer in time"))
        except Exception as error:  # noqa: BLE001  (whatever it is, the event must not be lost to it)
            refuge.note_away(error)
        return None

    async def _into_refuge(
        self, refuge: Refuge, fields: Mapping[str, bytes], deadline: float
    ) -> Taken:
        try:
            with _by(deadline):
                return Taken(await refuge.keep(fields), "spooled")
        except TimeoutError as error:
            raise _late("neither the stream nor the spool took the event in time") from error
        except Unspooled as error:
            raise Rejected(503, error.reason, str(error)) from error

    async def _insist(self, fields: Mapping[str, bytes], deadline: float) -> Taken:
        """Add to the stream, again and again while Redis is away; raises what the last try did."""
        wait_s = _RETRY_S
        with _by(deadline):
            while True:
                try:
                    async with self._roads:
                        return Taken(await self._stream.add(fields), "accepted")
                except Unavailable:
                    if anyio.current_time() + wait_s >= deadline:
                        raise
                # A short absence must not cost an event: Chatwoot would not send it again.
                await anyio.sleep(wait_s)
                wait_s = min(2 * wait_s, _RETRY_MAX_S)


def _by(deadline: float) -> AbstractContextManager[anyio.CancelScope]:
    return anyio.fail_after(max(0.0, deadline - anyio.current_time()))


def _late(message: str) -> Rejected:
    return Rejected(503, "timeout", message)
