"""The memory that the bodies of webhooks take together, counted as their bytes arrive."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio

FREE_BYTES: Final = 64 * 1024
"""What each body may take whatever the others do; the number of connections bounds the sum."""

BUDGET_BYTES: Final = 48 * 1024 * 1024
"""What all bodies together may take beyond that."""


class Evicted(Exception):
    """The body had to make room for others."""


class Budget:
    """Shares `max_bytes` among the bodies in hand; one body alone may take more."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._used = 0
        self._bodies: dict[Body, None] = {}
        self._released = anyio.Event()

    @contextmanager
    def body(self, *, proven: bool) -> Iterator["Body"]:
        """Give room for one body until the end of the block.

        `proven`: its request has shown a valid token, so it makes no room for strangers.
        """
        body = Body(self, proven=proven)
        self._bodies[body] = None
        try:
            yield body
        finally:
            del self._bodies[body]
            self.release(body)

    async def reserve(self, body: "Body", size: int) -> None:
        """Take `size` bytes for a body; where they are not free, another is evicted for it.

        That is the stranger's that has been arriving for longest. Where there is no other, it
        waits for bodies that have arrived wholly. Where there are none of those, a stranger's is
        evicted itself (`Evicted`), and of proven ones the newest.
        """
        while self._used > body.reserved and self._used + size > self._max_bytes:
            await self._make_room(body)
        body.reserved += size
        self._used += size

    def release(self, body: "Body") -> None:
        """Give back what a body took."""
        self._used -= body.reserved
        body.reserved = 0
        self._released.set()
        self._released = anyio.Event()

    async def _make_room(self, body: "Body") -> None:
        holders = [other for other in self._bodies if other.reserved or other is body]
        arriving = [holder for holder in holders if not holder.is_whole]
        strangers = [holder for holder in arriving if holder.reserved and not holder.is_proven]
        evicted = strangers[0] if strangers else arriving[-1]
        if len(arriving) < len(holders) and (evicted is body or not strangers):
            body.lacked_room = True
            await self._released.wait()
            return
        evicted.evict()
        if evicted is body:
            raise Evicted


class Body:
    """A body in hand, of which a part has arrived."""

    def __init__(self, budget: Budget, *, proven: bool) -> None:
        self.reserved = 0
        self.lacked_room = False
        self.is_proven = proven
        self.is_whole = False
        self._budget = budget
        self._bytes = bytearray()
        self._arriving = anyio.CancelScope()
        self._evicted = False

    def __len__(self) -> int:
        return len(self._bytes)

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """Receive it within this block, which `Evicted` ends when others need the room.

        What has arrived wholly is not evicted any more.
        """
        with self._arriving:
            yield
            self.is_whole = True
        if self._evicted:
            raise Evicted

    async def add(self, chunk: bytes) -> None:
        """Keep a chunk; waits while there is no room for it, and may raise `Evicted`."""
        beyond = max(0, len(self) + len(chunk) - FREE_BYTES) - self.reserved
        if beyond > 0:
            await self._budget.reserve(self, beyond)
        self._bytes += chunk

    def evict(self) -> None:
        """Drop it at once, and end its block."""
        self.lacked_room = self._evicted = True
        self.drop()
        self._arriving.cancel()

    def drop(self) -> None:
        """Give back what has arrived."""
        self._bytes = bytearray()
        self._budget.release(self)

    def take(self) -> bytes:
        """Return all of it."""
        taken, self._bytes = bytes(self._bytes), bytearray()
        return taken
