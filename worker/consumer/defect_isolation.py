"""Isolation of defects: an entry that meets an unexpected exception costs no other entry."""

from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from worker.consumer.batch import Batch
from worker.consumer.processor import BatchProcessor
from worker.consumer.retry import Retry, StopRequested
from worker.errors import WorkerError
from worker.ops.logs import LogThrottle, error_site

log = structlog.get_logger()


class PoisonIsolation:
    """Runs the processor's steps, each until Redis is available.

    After an unexpected exception the entries of a batch are settled one by one; the one that meets
    it again stays pending.
    """

    def __init__(self, processor: BatchProcessor, retry: Retry) -> None:
        self._processor = processor
        self._retry = retry
        self._throttle = LogThrottle(10.0)

    async def prepare(self, batch: Batch) -> None:
        """Prepare a batch."""
        await self._run(self._processor.prepare, batch)

    async def write(self, batch: Batch) -> None:
        """Write a batch, unless it failed."""
        await self._run(self._processor.write, batch)

    async def settle(self, batch: Batch) -> None:
        """Settle a batch that was written; settle the entries of a failed one one by one."""
        await self._run(self._processor.settle, batch)
        if batch.failed and len(batch.entries) > 1:
            for entry in batch.entries:
                alone = Batch([entry])
                await self.prepare(alone)
                await self.write(alone)
                await self._run(self._processor.settle, alone)

    async def _run(self, step: Callable[[Batch], Awaitable[None]], batch: Batch) -> None:
        if batch.failed:
            return
        try:
            await self._retry.call(partial(step, batch))
        except (WorkerError, StopRequested):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the other entries go on
            batch.failed = True
            if len(batch.entries) == 1:
                self._report(batch, error)

    def _report(self, batch: Batch, error: Exception) -> None:
        suppressed = self._throttle.ready(error_site(error))
        if suppressed is not None:
            entry_id = batch.entries[0].id.decode()
            log.error("entry.failed", id=entry_id, error=error_site(error), suppressed=suppressed)
