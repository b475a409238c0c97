"""Requests that wait for a message: a bot often learns of a message before the cache has it."""

from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from worker.web.http_error import HttpError

MAX_WAITING: Final = 100
"""Requests that may wait at one time; each polls the cache up to 100 times a second."""

_POLL_S: Final = (0.01, 0.02, 0.04, 0.08, 0.1)


class LongPoll:
    """Polls for waiting requests, at most `MAX_WAITING` at one time."""

    def __init__(self) -> None:
        self._waiting = 0
        self._closed = anyio.Event()

    def close(self) -> None:
        """End every wait: the worker is stopping."""
        self._closed.set()

    async def wait_until(self, condition: Callable[[], Awaitable[bool]], wait_s: float) -> bool:
        """Poll until the condition holds or the time is over; return whether it holds.

        Raises `HttpError` (503) when too many requests wait already.
        """
        if await condition():
            return True
        if self._waiting >= MAX_WAITING:
            raise HttpError(503, "busy", f"{MAX_WAITING} requests are waiting already; try again")
        self._waiting += 1
        try:
            return await self._poll(condition, anyio.current_time() + wait_s)
        finally:
            self._waiting -= 1

    async def _poll(self, condition: Callable[[], Awaitable[bool]], deadline: float) -> bool:
        polls = 0
        while (left_s := deadline - anyio.current_time()) > 0:
            with anyio.move_on_after(min(left_s, _POLL_S[min(polls, len(_POLL_S) - 1)])):
                await self._closed.wait()
            polls += 1
            if await condition():
                return True
            if self._closed.is_set():
                return False
        return False
