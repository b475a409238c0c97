"""Drops dead letters that are older than their retention."""

from worker.ops.metrics import Metrics
from worker.store.stream.dead_letters import DeadLetterStream


async def drop_old_dead_letters(dead_letters: DeadLetterStream, metrics: Metrics) -> None:
    """Drop old dead letters and count them."""
    dropped = await dead_letters.drop_old()
    metrics.stream_lost_entries.labels(reason="dead_dropped").inc(dropped)
