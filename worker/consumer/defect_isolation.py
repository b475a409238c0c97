"""Batches that are tried: while Redis is away again, and where a defect is met entry by entry."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import structlog

from worker.consumer.batch import Batch
from worker.consumer.processor import BatchProcessor
from worker.consumer.retry import Retry, Stopped
from worker.core.stream_entry import Entry
from worker.errors import WorkerError
from worker.ops.logs import LogThrottle, error_site

log = structlog.get_logger()

T = TypeVar("T")


class DefectIsolation:
    """Prepares and settles what it is given, so that a defect costs no entry but its own."""

    def __init__(self, settler: BatchProcessor, patience: Retry) -> None:
        self._settler = settler
        self._patience = patience
        self._throttle = LogThrottle(10.0)

    async def prepare(self, entries: Sequence[Entry]) -> Batch | None:
        """Prepare a batch; None where a defect stops it."""
        return await self._unless_defect(entries, partial(self._settler.prepare, entries))

    async def write(self, entries: Sequence[Entry], batch: Batch | None) -> Batch | None:
        """Write a batch; None where a defect stops it, or stopped it before."""
        return batch if batch and await self._is_done(entries, self._settler.write, batch) else None

    async def close(self, entries: Sequence[Entry], batch: Batch | None) -> None:
        """Close a batch that was written; where a defect stopped it, settle its entries alone."""
        is_closed = batch is not None and await self._is_done(entries, self._settler.close, batch)
        if not is_closed and len(entries) > 1:
            for entry in entries:
                await self._settle_alone(entry)

    async def _settle_alone(self, entry: Entry) -> None:
        if batch := await self.prepare([entry]):
            await self._is_done([entry], self._settler.settle, batch)

    async def _is_done(
        self, entries: Sequence[Entry], step: Callable[[Batch], Awaitable[bool]], batch: Batch
    ) -> bool:
        return bool(await self._unless_defect(entries, partial(step, batch)))

    async def _unless_defect(
        self, entries: Sequence[Entry], step: Callable[[], Awaitable[T]]
    ) -> T | None:
        """Do a step until it succeeds; None where a defect of ours stops it.

        An entry that meets a defect even when it is alone stays pending, for later.
        """
        try:
            return await self._patience.call(step)
        except (WorkerError, Stopped):
            raise
        except Exception as error:  # noqa: BLE001 - the one place that catches everything
            if len(entries) == 1:
                self._report_defect(entries[0], error)
            return None

    def _report_defect(self, entry: Entry, error: Exception) -> None:
        count = self._throttle.ready(error_site(error))
        if count is not None:
            entry_id = entry.id.decode()
            log.error("entry.failed", id=entry_id, error=error_site(error), suppressed=count)
