"""Asks a server about itself and about what the user may run."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.exceptions import ResponseError

from worker.errors import GroupMissing, PermissionDenied, RedisUnavailable
from worker.store.client import Client, translate_errors

_ABSENT_STREAM: Final = "chatwoot-cache-doctor:nothing-here"
_UNSUPPORTED: Final = ("unknown", "syntax", "unsupported")
GONE: Final = ("connection", "timeout")
"""Kinds of `RedisUnavailable` after which the server answers nothing else either."""


class ServerProbe:
    """Asks one server; unsupported questions raise `PermissionDenied` with the server's error."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def round_trip_s(self) -> float:
        """Return the time of a PING in seconds."""
        started_at = time.monotonic()
        async with probe_errors(self._client):
            await self._client.ping()
        return time.monotonic() - started_at

    async def info(self, section: str) -> dict[str, str]:
        """Return a section of INFO, values as text."""
        async with probe_errors(self._client):
            values = await self._client.info(section)
        return {str(name): str(value) for name, value in values.items()}

    async def config(self, name: str) -> str:
        """Return a configuration parameter; hosted servers often disable CONFIG."""
        async with probe_errors(self._client):
            values = await self._client.config_get(name)
        return str(values.get(name, ""))

    async def clock_ahead_s(self) -> float:
        """Return how far the server's clock is ahead of ours, accurate to half a round trip."""
        started_at = time.time()
        async with probe_errors(self._client):
            seconds, microseconds = await self._client.time()
        server_time: float = seconds + microseconds / 1e6
        return server_time - (started_at + time.time()) / 2

    async def blocked_s(self, block_s: float) -> float:
        """Return how long a blocking XREAD of an absent stream really blocks."""
        started_at = time.monotonic()
        async with probe_errors(self._client):
            await self._client.xread({_ABSENT_STREAM: "$"}, block=max(1, round(block_s * 1000)))
        return time.monotonic() - started_at

    async def understands(self, command: tuple[str | int, ...]) -> bool:
        """Say whether the server supports a command in this form; it must change nothing."""
        error = await self._try(command)
        text = str(error).lower() if isinstance(error, ResponseError) else ""
        return not any(word in text for word in _UNSUPPORTED)

    async def refusal(self, command: tuple[str | int, ...]) -> str | None:
        """Try a command that changes nothing; returns the error if the user may not run it.

        Other errors show that the permission exists.
        """
        error = await self._try(command)
        if isinstance(error, PermissionDenied):
            return str(error.__cause__)
        return str(error) if "unknown command" in str(error) else None

    async def _try(self, command: tuple[str | int, ...]) -> Exception | None:
        try:
            async with translate_errors(self._client):
                await self._client.execute_command(*command)
                if command[0] == "SUBSCRIBE":  # the connection accepts no other command now
                    await self._client.connection_pool.disconnect()
        except RedisUnavailable as error:
            if error.kind in GONE:
                raise
            return error
        except (GroupMissing, PermissionDenied, ResponseError) as error:
            return error
        return None


@asynccontextmanager
async def probe_errors(client: Client) -> AsyncIterator[None]:
    """Translate Redis errors; those that `translate_errors` does not know are refusals."""
    try:
        async with translate_errors(client):
            yield
    except ResponseError as error:
        raise PermissionDenied(str(error)) from error
