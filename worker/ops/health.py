"""What the probes answer: whether the loop makes progress, and whether webhooks can be taken."""

import time
from dataclasses import dataclass
from typing import Final, Protocol

import anyio

from worker.errors import RedisUnavailable, SpoolError, WorkerError

STALLED_AFTER_S: Final = 60.0
"""More than every time-out of one step together: a loop without progress for longer is wedged."""

_PING_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a webhook can be taken durably now; the reason, or what is amiss all the same."""

    ready: bool
    remark: str | None = None


class Loop(Protocol):
    """What is known of the consumer's loop."""

    @property
    def progressed_at(self) -> float:
        """When it last began a step, by the monotonic clock."""

    @property
    def outage(self) -> RedisUnavailable | None:
        """Why Redis cannot be used now, None when it can."""


class Server(Protocol):
    """The server that webhooks are added to."""

    async def ping(self) -> None:
        """Raise unless the server would take an event now."""


class Spool(Protocol):
    """The disk that keeps webhooks while the server takes none."""

    async def probe(self) -> None:
        """Raise `SpoolError` unless a webhook could be kept now."""


class Health:
    """The worker's state, in sentences; `closed` says why the webhook takes nothing, if so."""

    def __init__(
        self, loop: Loop, server: Server, *, closed: str | None, spool: Spool | None = None
    ) -> None:
        self._loop = loop
        self._server = server
        self._closed = closed
        self._spool = spool
        self.draining = False

    def stalled(self) -> str | None:
        """Say why the loop makes no progress; an outage of Redis is no such reason."""
        silent_s = time.monotonic() - self._loop.progressed_at
        if silent_s <= STALLED_AFTER_S:
            return None
        return f"the loop has made no progress for {silent_s:.0f} s"

    async def readiness(self) -> Readiness:
        """Say whether a webhook can be taken durably now: by Redis, or else by the spool.

        An orchestrator that took the endpoint away during an outage would lose them.
        """
        if self.draining:
            return Readiness(ready=False, remark="the worker is stopping")
        if self._closed:
            return Readiness(ready=False, remark=self._closed)
        if (outage := await self._trouble()) is None:
            return Readiness(ready=True)
        if self._spool is None:
            return Readiness(ready=False, remark=outage)
        return await self._spooling(self._spool, outage)

    async def _trouble(self) -> str | None:
        if outage := self._loop.outage:
            return f"Redis cannot be used ({outage.kind}): {outage}"
        try:
            with anyio.fail_after(_PING_S):
                await self._server.ping()
        except TimeoutError:
            return f"Redis did not answer within {_PING_S:.0f} s"
        except WorkerError as error:
            return f"Redis cannot be used: {error}"
        return None

    async def _spooling(self, spool: Spool, outage: str) -> Readiness:
        try:
            await spool.probe()
        except SpoolError as error:
            return Readiness(ready=False, remark=f"{outage}; {error}")
        return Readiness(ready=True, remark=f"{outage}; meanwhile the spool keeps webhooks")
