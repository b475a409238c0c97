"""The state behind the probes: does the consumer loop make progress, can webhooks be accepted."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import anyio

from worker.consumer.loop import Consumer
from worker.consumer.null_consumer import NullConsumer
from worker.errors import SpoolError, WorkerError

STALLED_AFTER_S: Final = 60.0
"""Longer than all timeouts of one step of the loop together."""

_PING_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a webhook can be stored now, and the reason or a remark."""

    ready: bool
    remark: str | None = None


class Pingable(Protocol):
    """A server, or what stands for one."""

    async def ping(self) -> None:
        """Raise `WorkerError` unless it can serve now."""


class Health:
    """Answers the probes.

    `rejecting` is the reason for which the webhook rejects everything, if it does; `probe_spool`
    raises `SpoolError` unless the spool can store a webhook now.
    """

    def __init__(
        self,
        consumer: Consumer | NullConsumer,
        servers: Sequence[Pingable],
        *,
        rejecting: str | None,
        probe_spool: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._consumer = consumer
        self._servers = servers
        self._rejecting = rejecting
        self._probe_spool = probe_spool
        self.draining = False

    def stalled(self) -> str | None:
        """Return why the loop makes no progress, or None; waiting for Redis counts as progress."""
        idle_s = time.monotonic() - self._consumer.progressed_at
        if idle_s <= STALLED_AFTER_S:
            return None
        return f"the loop has made no progress for {idle_s:.0f} s"

    async def readiness(self) -> Readiness:
        """Return whether a webhook can be stored now, by Redis or else by the spool.

        Ready with a spool: during an outage of Redis, an orchestrator must still route webhooks.
        """
        if self.draining:
            return Readiness(ready=False, remark="the worker is stopping")
        if self._rejecting:
            return Readiness(ready=False, remark=self._rejecting)
        outage = await self._find_outage()
        if outage is None or self._probe_spool is None:
            return Readiness(ready=outage is None, remark=outage)
        try:
            await self._probe_spool()
        except SpoolError as error:
            return Readiness(ready=False, remark=f"{outage}; {error}")
        return Readiness(ready=True, remark=f"{outage}; meanwhile the spool keeps webhooks")

    async def _find_outage(self) -> str | None:
        if outage := self._consumer.outage:
            return f"Redis cannot be used ({outage.kind}): {outage}"
        try:
            with anyio.fail_after(_PING_S):
                for server in self._servers:
                    await server.ping()
        except TimeoutError:
            return f"Redis did not answer within {_PING_S:.0f} s"
        except WorkerError as error:
            return f"Redis cannot be used: {error}"
        return None
