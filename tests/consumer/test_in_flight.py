"""Entries in flight are kept from other workers, and released, until they are settled."""

from collections.abc import Sequence
from typing import cast

from worker.consumer.entry_stream import EntryStream
from worker.consumer.in_flight import InFlight
from worker.core.stream_entry import Entry
from worker.ops.metrics import Metrics


class Stream:
    """Notes whose idle time is reset, and what is released."""

    def __init__(self) -> None:
        self.reset: list[bytes] = []
        self.released: list[Entry] = []

    async def reset_idle(self, ids: Sequence[bytes]) -> None:
        self.reset = list(ids)

    async def release(self, entries: Sequence[Entry], *, idle_s: float = 0.0) -> None:  # noqa: ARG002
        self.released = list(entries)


async def test_an_entry_handed_out_twice_is_in_flight_until_both_are_settled() -> None:
    """As when the group was created again while a batch of it was being written."""
    stream = Stream()
    in_flight = InFlight(cast("EntryStream", stream), Metrics("0", 200), reclaim_after_s=60.0)
    first, again = (Entry(b"1-0", {b"payload": b"{}"}) for _ in range(2))
    in_flight.add([first], "new")
    in_flight.add([again], "new")
    in_flight.remove([first])
    await in_flight.reset_idle()
    await in_flight.release()

    assert stream.reset == [b"1-0"]
    assert stream.released == [again]
    in_flight.remove([again])
    assert len(in_flight) == 0
