"""Runs a task on a timer."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import structlog

from worker.errors import GroupMissing, RedisUnavailable, WorkerError
from worker.ops.logs import LogThrottle, error_site

log = structlog.get_logger()

_HOURLY_S: Final = 3600.0


async def run_periodically(period_s: float, task: Callable[[], Awaitable[None]]) -> None:
    """Run a task at once and then in every period; skip it while Redis is unavailable.

    Outages are reported by the consumer. What a server cannot answer at all (INFO may be switched
    off) is logged once an hour.
    """
    failures = LogThrottle(_HOURLY_S)
    while True:
        started = time.monotonic()
        try:
            await task()
        except (RedisUnavailable, GroupMissing) as error:
            log.debug("maintenance.skipped", error=str(error))
        except WorkerError:
            raise
        except Exception as error:  # noqa: BLE001 - a defect here must not end the loop
            if failures.ready(error_site(error)) is not None:
                log.error("maintenance.failed", error=error_site(error))
        await anyio.sleep(max(0.0, started + period_s - time.monotonic()))
