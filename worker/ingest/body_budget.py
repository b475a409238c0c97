"""The memory that all webhook bodies share, counted as their bytes arrive."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio

FREE_BYTES: Final = 64 * 1024
"""Bytes of each body that are not counted; the connection limit bounds their sum."""

BUDGET_BYTES: Final = 48 * 1024 * 1024
"""What all bodies together may take beyond that."""


class BodyEvicted(Exception):
    """The memory of this body was needed for another one."""


class BodyBudget:
    """Shares `max_bytes` among the bodies; a body that is alone may take more."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._used = 0
        self._buffers: dict[BodyBuffer, None] = {}
        self._released = anyio.Event()

    @contextmanager
    def buffer(self, *, authenticated: bool) -> Iterator["BodyBuffer"]:
        """Yield a buffer for one body; its memory is released at the end of the block.

        The buffer of an authenticated request is never evicted for an unauthenticated one.
        """
        buffer = BodyBuffer(self, authenticated=authenticated)
        self._buffers[buffer] = None
        try:
            yield buffer
        finally:
            del self._buffers[buffer]
            self.release(buffer)

    async def reserve(self, buffer: "BodyBuffer", size: int) -> None:
        """Reserve `size` bytes; where they are not free, make room in this order.

        1. Evict the unauthenticated body that has been arriving for longest.
        2. Wait for complete bodies to be stored.
        3. Evict the newest body that is arriving.

        Raises `BodyEvicted` where the body evicted is the caller's.
        """
        while self._used > buffer.reserved and self._used + size > self._max_bytes:
            await self._make_room(buffer)
        buffer.reserved += size
        self._used += size

    def release(self, buffer: "BodyBuffer") -> None:
        """Release what a buffer reserved."""
        self._used -= buffer.reserved
        buffer.reserved = 0
        self._released.set()
        self._released = anyio.Event()

    async def _make_room(self, buffer: "BodyBuffer") -> None:
        holders = [other for other in self._buffers if other.reserved or other is buffer]
        arriving = [holder for holder in holders if not holder.is_complete]
        evictable = [h for h in arriving if h.reserved and not h.is_authenticated]
        evicted = evictable[0] if evictable else arriving[-1]
        if len(arriving) < len(holders) and (evicted is buffer or not evictable):
            buffer.lacked_memory = True
            await self._released.wait()
            return
        evicted.evict()
        if evicted is buffer:
            raise BodyEvicted


class BodyBuffer:
    """What has arrived of one body; `lacked_memory` once it waited for memory or was evicted."""

    def __init__(self, budget: BodyBudget, *, authenticated: bool) -> None:
        self.reserved = 0
        self.lacked_memory = False
        self.is_authenticated = authenticated
        self.is_complete = False
        self._budget = budget
        self._bytes = bytearray()
        self._receiving = anyio.CancelScope()
        self._is_evicted = False

    def __len__(self) -> int:
        return len(self._bytes)

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Receive the body within this block; an eviction ends it with `BodyEvicted`.

        A body that is complete is not evicted any more.
        """
        with self._receiving:
            yield
            self.is_complete = True
        if self._is_evicted:
            raise BodyEvicted

    async def add(self, chunk: bytes) -> None:
        """Add a chunk; waits for memory, and may raise `BodyEvicted`."""
        counted = max(0, len(self) + len(chunk) - FREE_BYTES) - self.reserved
        if counted > 0:
            await self._budget.reserve(self, counted)
        self._bytes += chunk

    def evict(self) -> None:
        """Drop the content and cancel the `receiving` block."""
        self.lacked_memory = self._is_evicted = True
        self.clear()
        self._receiving.cancel()

    def clear(self) -> None:
        """Drop the content and release its memory."""
        self._bytes = bytearray()
        self._budget.release(self)

    def take(self) -> bytes:
        """Return the content, which the buffer no longer holds."""
        taken, self._bytes = bytes(self._bytes), bytearray()
        return taken
