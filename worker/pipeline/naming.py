"""A consumer's name is for one worker at a time: two would settle one list of pending entries."""

import time
from typing import Final, Protocol

from worker.errors import Misconfigured
from worker.pipeline.patience import Patience

HEARTBEAT_S: Final = 0.5

_UNUSED_S: Final = 1.5
"""A name that was not seen for three heartbeats is free."""
_POLL_S: Final = 0.1


class NamedConsumer(Protocol):
    """What the group knows of our name."""

    async def consumer_idle_ms(self) -> int | None:
        """Return how long our name has not been used, None when it never was."""


async def refuse_a_rival(stream: NamedConsumer, patience: Patience, name: str) -> None:
    """Raise `Misconfigured` when a live worker uses the name; returns once it is free.

    A live one is seen with every heartbeat, and so is never idle for long.
    """
    idle_ms = await patience.insist(stream.consumer_idle_ms)
    used_at = time.monotonic() - (_UNUSED_S if idle_ms is None else idle_ms / 1000)
    while (unused_s := time.monotonic() - used_at) < _UNUSED_S:
        if await patience.pause(_POLL_S):
            return
        idle_ms = await patience.insist(stream.consumer_idle_ms)
        if idle_ms is not None and idle_ms / 1000 < unused_s - _POLL_S:
            raise Misconfigured(
                f"a live worker is consumer {name!r} of this group already: "
                "give each worker its own CHATWOOT_CACHE_STREAM_CONSUMER"
            )
