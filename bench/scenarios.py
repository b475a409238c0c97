"""The worlds that growth is measured in: an ordinary one, and each with one thing grown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.events import Traffic

CACHED: Final = 10_000
BACKLOG: Final = 100_000
LEAST: Final = 1_000
"""Fewer entries, or fewer cached documents, say nothing."""

BYTES_AT_ONCE: Final = 300_000_000
"""What a stream of large bodies may hold: its backlog is shorter."""


ORDINARY: Final = Traffic()


@dataclass(frozen=True, slots=True)
class World:
    """What stands in the cache and waits on the stream, and how many work on it.

    `per_conversation` events of each conversation decide how many of those there are.
    """

    label: str
    cached: int = CACHED
    backlog: int = BACKLOG
    traffic: Traffic = ORDINARY
    per_conversation: int = 0
    workers: int = 1

    def scaled(self, scale: float) -> "World":
        """Return a smaller world for a shorter run: fewer cached documents, fewer entries."""
        backlog = max(min(LEAST, self.backlog), int(self.backlog * scale))
        traffic = self.traffic
        if self.per_conversation:
            conversations = max(1, backlog // self.per_conversation)
            traffic = Traffic(min(conversations, traffic.instances), conversations)
        cached = max(LEAST, int(self.cached * scale))
        return replace(self, cached=cached, backlog=backlog, traffic=traffic)


SMALL: Final = World("small", cached=10_000, backlog=10_000, traffic=Traffic(instances=1))
LARGE: Final = World("large", cached=1_000_000, backlog=1_000_000, traffic=Traffic(instances=1_000))


def _of_size(label: str, size: int) -> World:
    backlog = min(BACKLOG, BYTES_AT_ONCE // size)
    return World(label, backlog=backlog, traffic=Traffic(body_bytes=size))


# Worlds with the same stream stand together, so that it is filled once.
AXES: Final[Mapping[str, Sequence[World]]] = {
    "cached documents": (
        World("10⁴", cached=10_000),
        World("10⁵", cached=100_000),
        World("10⁶", cached=1_000_000),
    ),
    "workers": tuple(World(str(n), workers=n) for n in (1, 2, 3, 4)),
    "stream backlog": (
        World("10⁴", backlog=10_000),
        World("10⁵", backlog=100_000),
        World("10⁶", backlog=1_000_000),
    ),
    "instances": tuple(World(f"{n:,}", traffic=Traffic(instances=n)) for n in (1, 10, 100, 1_000)),
    "events per conversation": tuple(
        World(f"{n:,}", per_conversation=n) for n in (1, 10, 100, 1_000, 10_000)
    ),
    "payload size": (
        # No smaller: so much surrounds the text of every message.
        _of_size("1.5 KB", 1_500),
        _of_size("10 KB", 10_000),
        _of_size("100 KB", 100_000),
        _of_size("1 MB", 1_000_000),
    ),
}
