"""What the consumer needs of a stream: a consumer group's (`StreamReader`) or none's."""

from collections.abc import Sequence
from typing import Protocol

from worker.core.stream_entry import BuryResult, DeadEntry, Entry, PendingEntry
from worker.store.stream.consumer_group import CreatedGroup
from worker.store.stream.lease import Lease


class EntryStream(Protocol):
    """Hands out entries and takes their acknowledgements."""

    @property
    def reclaim_lease(self) -> Lease | None:
        """Held by the worker that takes over idle entries; None where there are no others."""

    async def create_group(self) -> CreatedGroup | None:
        """Create stream and group where they are missing; None when the group exists."""

    async def heartbeat(self) -> None:
        """Reset our consumer's idle time."""

    async def consumer_idle_ms(self) -> int | None:
        """Return how long our consumer name has not been used, None when it never was."""

    async def read(self) -> list[Entry]:
        """Wait for new entries and return a batch of them."""

    async def unblock(self) -> bool:
        """Let a read that waits return with nothing, where that is possible."""

    async def pending(self, after: bytes, *, idle_s: float | None = None) -> list[PendingEntry]:
        """Return a batch of pending entries behind an id: ours, or anybody's idle for `idle_s`."""

    async def claim(self, pending: Sequence[PendingEntry], *, idle_s: float = 0.0) -> list[Entry]:
        """Take over pending entries, which counts as one more attempt."""

    async def reset_idle(self, ids: Sequence[bytes]) -> None:
        """Reset the idle time of pending entries, so that no other worker takes them over."""

    async def release(self, entries: Sequence[Entry], *, idle_s: float = 0.0) -> None:
        """Undo this attempt on entries and count them as idle for `idle_s` seconds."""

    async def ack(self, ids: Sequence[bytes]) -> int:
        """Acknowledge entries; returns how many were pending."""

    async def bury(self, dead_entries: Sequence[DeadEntry]) -> BuryResult:
        """Move entries to the dead letters, which acknowledges them."""

    async def delete(self, ids: Sequence[bytes]) -> None:
        """Delete entries from the stream; raises `PermissionRefused` where that is not allowed."""
