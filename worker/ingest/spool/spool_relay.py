"""What becomes of webhooks while Redis is away: they go to the disk, and later to the stream.

A spooled event carries on as `_id` the time it was accepted, with a sequence no server gives.
So its age and its place among other events are those of its arrival, however late it is brought
back, and bringing it twice changes nothing.

The stream records which row came last, so that each row is added once, whether or not it can be
deleted from the disk afterwards: a full disk may refuse that.
"""

import secrets
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Final, Protocol

import anyio
import structlog

from worker.core.stream_entry import SpoolPosition
from worker.errors import SpoolError, WorkerError
from worker.ingest.spool.spool_database import SpoolFigures
from worker.ingest.spool.spool_file import Spooled
from worker.ingest.spool.spool_queue import decode
from worker.ops.logs import LogThrottle, error_site
from worker.ops.metrics import Metrics

log = structlog.get_logger()

_IDLE_S: Final = 5.0
_RETRY_S: Final = (0.25, 0.5, 1.0, 2.0)
_LOG_EVERY_S: Final = 60.0
_AT_ONCE: Final = 100

_SEQUENCE_BITS: Final = 63


class Spool(Protocol):
    """The disk."""

    @property
    def identity(self) -> str:
        """What tells this spool from every other."""

    async def add(self, fields: Mapping[str, bytes]) -> None:
        """Keep an event durably; raises `SpoolError`."""

    async def oldest(self, count: int) -> list[Spooled]:
        """Return the first events that wait, at most `count`."""

    async def mark_drained(self, position: SpoolPosition) -> None:
        """Learn up to which event the stream has them: those do not wait."""

    async def clean(self) -> None:
        """Delete the events that do not wait; raises `SpoolError` where the disk is too full."""

    async def postpone(self, one: Spooled) -> None:
        """Put an event behind all others."""

    async def figures(self) -> SpoolFigures:
        """Say how much waits."""

    def draining(self) -> AbstractContextManager[bool]:
        """Say whether this worker may drain now."""


class Stream(Protocol):
    """Where events belong."""

    async def drain(
        self, after: SpoolPosition, rows: Iterable[tuple[bytes, Mapping[str, bytes]]]
    ) -> tuple[SpoolPosition, int]:
        """Add rows in order and record the last, in one step, if the record is `after`.

        Returns the record and how many rows were added.
        """

    async def ping(self) -> None:
        """Raise unless the server would take an event now."""


class SpoolRelay:
    """Keeps events while the stream takes none, and brings them back; `run` does the latter."""

    def __init__(self, spool: Spool, stream: Stream, metrics: Metrics) -> None:
        self._spool = spool
        self._stream = stream
        self._metrics = metrics
        self._throttle = LogThrottle(_LOG_EVERY_S)
        self._wanted = anyio.Event()
        self._at_once = _AT_ONCE
        self._record = SpoolPosition("")
        self._is_clean = True
        self.away = False

    def mark_unavailable(self, error: Exception) -> None:
        """Learn that the stream took nothing: until it does, events go to the disk at once."""
        self.away = True
        self._wanted.set()
        self._say("webhook.spooled", error)

    async def keep(self, fields: Mapping[str, bytes]) -> str:
        """Keep an event durably, and give the id it will carry; raises `SpoolError`."""
        accepted = _new_id()
        await self._spool.add({**fields, "_id": accepted.encode()})
        self._wanted.set()
        return accepted

    async def run(self) -> None:
        """Look after the spool until cancelled: what waits there goes to the stream when it can."""
        failures = 0
        while True:
            try:
                await self._bring_back()
                failures = 0
            except Exception as error:  # noqa: BLE001  (what waits must be tried again, whatever it is)
                failures += 1
                self._failed(error)
            await self._rest(failures)

    async def _bring_back(self) -> None:
        await self._clean()
        waiting = await self._measure()
        if not (self.away or waiting or not self._is_clean):
            return

        await self._stream.ping()
        self.away = False
        with self._spool.draining() as is_ours:
            if is_ours and (waiting or not self._is_clean):
                await self._drain()

    async def _drain(self) -> None:
        """Bring what waits to the stream, and delete what is there if the disk allows it."""
        await self._learn(await self._stream.drain(self._after(self._spool.identity), ()))
        drained = 0
        while rows := await self._spool.oldest(self._at_once):
            drained += await self._bring(rows)
            self._at_once = min(2 * self._at_once, _AT_ONCE)
            if self._is_clean:
                await self._clean()
            await self._measure()
        await self._clean()
        await self._measure()
        if drained:
            log.info("spool.drained", entries=drained)

    async def _bring(self, rows: list[Spooled]) -> int:
        """Put events on the stream, unless it has them; returns how many it had not."""
        after = self._after(rows[0].spool)
        try:
            reply = await self._stream.drain(after, [(row.position, decode(row)) for row in rows])
        except Exception as error:
            # One at a time, so that a server that is nearly full is not given the same ones again;
            # and one that Redis does not take, for no reason that passes, must not stop the others.
            if len(rows) == 1 and not isinstance(error, WorkerError):
                await self._spool.postpone(rows[0])
            self._at_once = 1
            raise
        return await self._learn(reply)

    def _after(self, spool: str) -> SpoolPosition:
        """Return what the stream's record of a spool was last known to be."""
        return self._record if self._record.spool == spool else SpoolPosition(spool)

    async def _learn(self, reply: tuple[SpoolPosition, int]) -> int:
        self._record, added = reply
        await self._spool.mark_drained(self._record)
        self._metrics.webhook_spool_drained.inc(added)
        return added

    async def _clean(self) -> None:
        """Delete what the stream has; a failure is logged, and it is tried again later."""
        try:
            await self._spool.clean()
            self._is_clean = True
        except SpoolError as error:
            self._is_clean = False
            self._say("spool.failed", error)

    async def _measure(self) -> int:
        figures = await self._spool.figures()
        self._metrics.webhook_spool_bytes.set(figures.used_bytes)
        self._metrics.webhook_spool_entries.set(figures.entries)
        return figures.entries

    def _failed(self, error: Exception) -> None:
        if isinstance(error, SpoolError):
            self._say("spool.failed", error)
            return
        # What has no name of ours is about one event, or a defect: others may well get through.
        self.away = self.away or isinstance(error, WorkerError)
        self._say("spool.waited", error)

    async def _rest(self, failures: int) -> None:
        if failures:
            await anyio.sleep(_RETRY_S[min(failures, len(_RETRY_S)) - 1])
            return
        with anyio.move_on_after(_IDLE_S):
            await self._wanted.wait()
        self._wanted = anyio.Event()

    def _say(self, event: str, error: Exception) -> None:
        cause = str(error) if isinstance(error, WorkerError) else error_site(error)
        suppressed = self._throttle.ready(event)
        if suppressed is not None:
            log.warning(event, error=cause, suppressed=suppressed)


def _new_id() -> str:
    """Return an id of this moment that no server gives: its sequence is in the upper half."""
    sequence = (1 << _SEQUENCE_BITS) | secrets.randbits(_SEQUENCE_BITS)
    return f"{time.time_ns() // 1_000_000}-{sequence}"
