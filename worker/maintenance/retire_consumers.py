"""Deletes consumers of workers that are gone, by one worker of the group."""

from typing import Final

import structlog

from worker.maintenance import LEASE_S
from worker.store.stream.consumer_group import ConsumerGroup
from worker.store.stream.lease import Lease

log = structlog.get_logger()

RETIRE_AFTER_S: Final = 3600.0


async def retire_consumers(group: ConsumerGroup, lease: Lease) -> None:
    """Delete consumers that have no pending entries and were idle for `RETIRE_AFTER_S`."""
    if await lease.hold(LEASE_S) and (retired := await group.retire(RETIRE_AFTER_S)):
        log.info("consumers.retired", consumers=retired)
