"""Spools webhooks while Redis is unavailable, and relays them to the stream later.

A spooled event has an `_id` with the time it was accepted and a sequence that no server assigns.
So its age and its order among other events are those of its arrival, however late it is relayed,
and relaying it twice has no effect.

The stream records the last row that was relayed, so that each row is added once, whether or not
it could be deleted from the disk afterwards: a full disk may prevent that.
"""

import secrets
import time
from collections.abc import Mapping
from typing import Final

import anyio
import structlog

from worker.core.stream_entry import SpoolPosition
from worker.errors import SpoolError, WorkerError
from worker.ingest.spool.spool_file import SpoolFile, SpoolRow
from worker.ingest.spool.spool_queue import SpoolQueue, decode
from worker.ops.logs import LogThrottle, error_site
from worker.ops.metrics import Metrics
from worker.store.backoff import Backoff
from worker.store.stream.stream_reader import StreamProducer

log = structlog.get_logger()

_IDLE_S: Final = 5.0
_RETRY_S: Final = 0.25
_RETRY_MAX_S: Final = 2.0
_LOG_EVERY_S: Final = 60.0
_MAX_BATCH: Final = 100
_BATCH_BYTES: Final = 4 * 1024 * 1024

_SEQUENCE_BITS: Final = 63


class SpoolRelay:
    """Stores events in the spool with `keep`; `run` relays them to the stream.

    While `unavailable`, the stream is known to fail and events should be spooled at once.
    """

    def __init__(self, spool: SpoolQueue, stream: StreamProducer, metrics: Metrics) -> None:
        self._spool = spool
        self._stream = stream
        self._metrics = metrics
        self._throttle = LogThrottle(_LOG_EVERY_S)
        self._wake = anyio.Event()
        self._batch_size = _MAX_BATCH
        self._last_relayed = SpoolPosition("")
        self._must_delete = False
        self.unavailable = False

    def mark_unavailable(self, error: Exception) -> None:
        """Set `unavailable`, until the stream accepts entries again."""
        self.unavailable = True
        self._wake.set()
        self._log("webhook.spooled", error)

    async def keep(self, fields: Mapping[str, bytes]) -> str:
        """Store an event durably and return its id; raises `SpoolError`."""
        event_id = _new_id()
        await self._spool.add({**fields, "_id": event_id.encode()})
        self._wake.set()
        return event_id

    async def run(self) -> None:
        """Relay events whenever the stream accepts them, until cancelled."""
        backoff = Backoff(_RETRY_S, _RETRY_MAX_S)
        while True:
            try:
                await self._relay()
                backoff.reset()
                await self._wait_for_work()
            # Errors of Redis and the disk, and defects: whichever it is, events wait on the disk,
            # and only the next attempt can deliver them.
            except Exception as error:  # noqa: BLE001
                self._log_failed(error)
                await anyio.sleep(backoff.next_delay_s())

    async def _relay(self) -> None:
        await self._delete_drained()
        has_work = bool(await self._measure()) or self._must_delete
        if not (self.unavailable or has_work):
            return

        await self._stream.ping()
        self.unavailable = False
        with self._spool.file.drain_lock() as is_locked:
            if is_locked and has_work:
                await self._drain()

    async def _drain(self) -> None:
        """Relay all events, and delete them where the disk allows it."""
        relayed = 0
        await self._record(await self._add(self._spool.file.identity, []))
        while rows := await self._spool.call(SpoolFile.oldest, self._batch_size, _BATCH_BYTES):
            relayed += await self._relay_batch(rows)
            self._batch_size = min(2 * self._batch_size, _MAX_BATCH)
            if not self._must_delete:
                await self._delete_drained()
            await self._measure()
        await self._delete_drained()
        await self._measure()
        if relayed:
            log.info("spool.drained", entries=relayed)

    async def _relay_batch(self, rows: list[SpoolRow]) -> int:
        """Relay events; returns how many the stream did not have yet."""
        try:
            reply = await self._add(rows[0].spool, rows)
        except Exception as error:
            # One at a time from now on: a server that is nearly full must not get the same rows
            # again. A row that fails for another reason than an outage must not block the others.
            if len(rows) == 1 and not isinstance(error, WorkerError):
                await self._spool.call(SpoolFile.move_to_end, rows[0])
            self._batch_size = 1
            raise
        return await self._record(reply)

    async def _add(self, spool: str, rows: list[SpoolRow]) -> tuple[SpoolPosition, int]:
        """Add rows behind the last one that was relayed, as far as it is known."""
        is_known = self._last_relayed.spool == spool
        after = self._last_relayed if is_known else SpoolPosition(spool)
        return await self._stream.drain(after, [(row.position, decode(row)) for row in rows])

    async def _record(self, reply: tuple[SpoolPosition, int]) -> int:
        self._last_relayed, added = reply
        await self._spool.call(SpoolFile.mark_drained, self._last_relayed)
        self._metrics.webhook_spool_drained.inc(added)
        return added

    async def _delete_drained(self) -> None:
        """Delete what the stream has; an error is logged, and it is tried again later."""
        try:
            await self._spool.call(SpoolFile.delete_drained)
            self._must_delete = False
        except SpoolError as error:
            self._must_delete = True
            self._log("spool.failed", error)

    async def _measure(self) -> int:
        stats = await self._spool.call(SpoolFile.stats)
        self._metrics.webhook_spool_bytes.set(stats.used_bytes)
        self._metrics.webhook_spool_entries.set(stats.entries)
        return stats.entries

    def _log_failed(self, error: Exception) -> None:
        if isinstance(error, SpoolError):
            self._log("spool.failed", error)
            return
        # An error that is not ours concerns one event, or is a defect: the stream may still work.
        self.unavailable = self.unavailable or isinstance(error, WorkerError)
        self._log("spool.drain_failed", error)

    async def _wait_for_work(self) -> None:
        with anyio.move_on_after(_IDLE_S):
            await self._wake.wait()
        self._wake = anyio.Event()

    def _log(self, event: str, error: Exception) -> None:
        cause = str(error) if isinstance(error, WorkerError) else error_site(error)
        suppressed = self._throttle.ready(event)
        if suppressed is not None:
            log.warning(event, error=cause, suppressed=suppressed)


def _new_id() -> str:
    """Return an id of this moment that no server assigns: its sequence is in the upper half."""
    sequence = (1 << _SEQUENCE_BITS) | secrets.randbits(_SEQUENCE_BITS)
    return f"{time.time_ns() // 1_000_000}-{sequence}"
