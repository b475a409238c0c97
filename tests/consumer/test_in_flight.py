"""What is in hand is kept from others, and handed over, until nothing more is done about it."""

from collections.abc import Sequence

from worker.consumer.in_flight import InFlight
from worker.core.stream_entry import Entry
from worker.ops.metrics import Metrics


class Lender:
    """Notes what is kept and given back."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.given_back: list[Entry] = []

    async def keep(self, ids: Sequence[bytes]) -> None:
        self.kept = list(ids)

    async def give_back(self, entries: Sequence[Entry], *, idle_s: float = 0.0) -> None:  # noqa: ARG002
        self.given_back = list(entries)


async def test_an_entry_handed_out_twice_is_in_hand_until_both_are_settled() -> None:
    """As when the group was created again while a batch of it was being written."""
    lender = Lender()
    hand = InFlight(lender, Metrics("0", 200), reclaim_after_s=60.0)
    first, again = (Entry(b"1-0", {b"payload": b"{}"}) for _ in range(2))
    hand.take([first], "new")
    hand.take([again], "new")
    hand.remove([first])
    await hand.keep()
    await hand.release()

    assert lender.kept == [b"1-0"]
    assert lender.given_back == [again]
    hand.remove([again])
    assert len(hand) == 0
