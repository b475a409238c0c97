"""What the probes answer: whether the loop makes progress, and whether webhooks can be taken."""

import time
from typing import Final, Protocol

import anyio

from worker.errors import Error, Unavailable

STALLED_AFTER_S: Final = 60.0
"""More than every time-out of one step together: a loop without progress for longer is wedged."""

_PING_S: Final = 1.0


class Loop(Protocol):
    """What is known of the consumer's loop."""

    @property
    def progressed_at(self) -> float:
        """When it last began a step, by the monotonic clock."""

    @property
    def trouble(self) -> Unavailable | None:
        """Why Redis cannot be used now, None when it can."""


class Server(Protocol):
    """The server that webhooks are added to."""

    async def ping(self) -> None:
        """Raise unless the server would take an event now."""


class Health:
    """The worker's state, in sentences; `closed` says why the webhook takes nothing, if so."""

    def __init__(self, loop: Loop, server: Server, *, closed: str | None) -> None:
        self._loop = loop
        self._server = server
        self._closed = closed
        self.draining = False

    def stalled(self) -> str | None:
        """Say why the loop makes no progress; an outage of Redis is no such reason."""
        silent_s = time.monotonic() - self._loop.progressed_at
        if silent_s <= STALLED_AFTER_S:
            return None
        return f"the loop has made no progress for {silent_s:.0f} s"

    async def unready(self) -> str | None:
        """Say why a webhook cannot be taken durably now."""
        if self.draining:
            return "the worker is stopping"
        if self._closed:
            return self._closed
        if trouble := self._loop.trouble:
            return f"Redis cannot be used ({trouble.kind}): {trouble}"
        return await self._unreachable()

    async def _unreachable(self) -> str | None:
        try:
            with anyio.fail_after(_PING_S):
                await self._server.ping()
        except TimeoutError:
            return f"Redis did not answer within {_PING_S:.0f} s"
        except Error as error:
            return f"Redis cannot be used: {error}"
        return None
