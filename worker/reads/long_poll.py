"""Those who wait for a message: a bot often hears of it before we do."""

from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from worker.web.http_error import HttpError

MAX_WAITING: Final = 100
"""Requests that wait at one time; each looks a few times a second."""

_LOOK_S: Final = (0.01, 0.02, 0.04, 0.08, 0.1)


class LongPoll:
    """The room in which requests wait."""

    def __init__(self) -> None:
        self._count = 0
        self._closed = anyio.Event()

    def close(self) -> None:
        """Let nobody wait any longer: the worker is stopping."""
        self._closed.set()

    async def until(self, is_there: Callable[[], Awaitable[bool]], wait_s: float) -> bool:
        """Look until it is there, or the time is over; says whether it is.

        Raises Rejected (503) when too many wait already; what is there waits for nobody.
        """
        if await is_there():
            return True
        if self._count >= MAX_WAITING:
            raise HttpError(503, "busy", f"{MAX_WAITING} requests wait already; try again")
        self._count += 1
        try:
            return await self._look(is_there, wait_s)
        finally:
            self._count -= 1

    async def _look(self, is_there: Callable[[], Awaitable[bool]], wait_s: float) -> bool:
        deadline = anyio.current_time() + wait_s
        looks = 0
        while (left_s := deadline - anyio.current_time()) > 0:
            with anyio.move_on_after(min(left_s, _LOOK_S[min(looks, len(_LOOK_S) - 1)])):
                await self._closed.wait()
            looks += 1
            if await is_there():
                return True
            if self._closed.is_set():
                return False
        return False
