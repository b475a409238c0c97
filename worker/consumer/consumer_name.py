"""A consumer's name is for one worker at a time: two would settle one list of pending entries."""

import math
import time
from functools import partial
from typing import Final, Protocol

from worker.consumer.retry import Retry
from worker.errors import ConfigurationError

HEARTBEAT_S: Final = 0.5

_UNUSED_S: Final = 1.5
"""A name that was not seen for three heartbeats is free."""
_USES: Final = 2
_ROUNDING_S: Final = 0.01
_POLL_S: Final = 0.1


class NamedConsumer(Protocol):
    """What the group knows of our name."""

    async def consumer_idle_ms(self) -> int | None:
        """Return how long our name has not been used, None when it never was."""


async def ensure_unique(stream: NamedConsumer, patience: Retry, name: str) -> None:
    """Raise `ConfigurationError` when a live worker uses the name; returns once it is free.

    A live one is seen with every heartbeat, and so is never idle for long.
    """
    if await patience.call(partial(_is_used, stream, patience)):
        raise ConfigurationError(
            f"a live worker is consumer {name!r} of this group already: "
            "give each worker its own CHATWOOT_CACHE_STREAM_CONSUMER"
        )


async def _is_used(stream: NamedConsumer, patience: Retry) -> bool:
    """Watch the name until it rested for three heartbeats, or was used twice meanwhile.

    Used once, it may be that the server restarted: what it then reads back counts as use.
    """
    used_by, uses = -math.inf, -1  # the first use that is seen was before we came
    while True:
        asked = time.monotonic()
        idle_ms = await stream.consumer_idle_ms()
        answered = time.monotonic()
        # The server looked at some time between: however slow it is, no look passes for a use.
        if idle_ms is not None and asked - idle_ms / 1000 > used_by + _ROUNDING_S:
            used_by, uses = answered - idle_ms / 1000, uses + 1
        if uses == _USES:
            return True
        if answered - used_by >= _UNUSED_S or await patience.pause(_POLL_S):
            return False
