"""Settings of a stream's reader and of its dead letters."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Stream, group and consumer, and the limits of reads and dead letters; times in seconds."""

    key: str
    group: str
    consumer: str
    batch_size: int = 200
    block_s: float = 2.0
    dead_max_entries: int = 10_000
    dead_retention_s: float = 2_592_000
