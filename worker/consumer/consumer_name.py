"""A consumer's name is for one worker: two would settle the same list of pending entries."""

import math
import time
from functools import partial
from typing import Final

from worker.consumer.entry_stream import EntryStream
from worker.consumer.retry import Retry
from worker.errors import ConfigurationError

HEARTBEAT_S: Final = 0.5

_UNUSED_S: Final = 1.5
"""A name that was not used for three heartbeats is free."""
_USES: Final = 2
_ROUNDING_S: Final = 0.01
_POLL_S: Final = 0.1


async def ensure_unique(stream: EntryStream, retry: Retry, name: str) -> None:
    """Return once the name is free; raise `ConfigurationError` when a live worker uses it."""
    if await retry.call(partial(_is_used, stream, retry)):
        raise ConfigurationError(
            f"a live worker is consumer {name!r} of this group already: "
            "give each worker its own CHATWOOT_CACHE_STREAM_CONSUMER"
        )


async def _is_used(stream: EntryStream, retry: Retry) -> bool:
    """Poll until the name was unused for three heartbeats, or was used twice.

    A single use may be the server's restart, which counts as use when it loads its data.
    """
    last_use, uses = -math.inf, -1  # the first use that is seen may be from before the start
    while True:
        sent = time.monotonic()
        idle_ms = await stream.consumer_idle_ms()
        received = time.monotonic()
        # The server replied between `sent` and `received`, so a slow reply is no use of the name.
        if idle_ms is not None and sent - idle_ms / 1000 > last_use + _ROUNDING_S:
            last_use, uses = received - idle_ms / 1000, uses + 1
        if uses == _USES:
            return True
        if received - last_use >= _UNUSED_S or await retry.pause(_POLL_S):
            return False
