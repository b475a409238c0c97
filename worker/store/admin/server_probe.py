"""Questions to a server about itself, for whoever wants to know whether it suits us."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.exceptions import ResponseError

from worker.errors import GroupMissing, PermissionRefused, RedisUnavailable
from worker.store.client import Client, translate_errors

_NOWHERE: Final = "chatwoot-cache-doctor:nothing-here"
_NOT_KNOWN: Final = ("unknown", "syntax", "unsupported")
GONE: Final = ("connection", "timeout")
"""Kinds of `RedisUnavailable` after which no other question is answered either."""


class ServerProbe:
    """Asks one server; what it does not answer raises `PermissionRefused`, with its own words."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def round_trip_s(self) -> float:
        """Return how long the server takes to answer, in seconds."""
        began = time.monotonic()
        async with probe_errors(self._client):
            await self._client.ping()
        return time.monotonic() - began

    async def info(self, section: str) -> dict[str, str]:
        """Return a section of INFO, as text."""
        async with probe_errors(self._client):
            found = await self._client.info(section)
        return {str(name): str(value) for name, value in found.items()}

    async def config(self, name: str) -> str:
        """Return a setting of the server's; hosted ones often have CONFIG switched off."""
        async with probe_errors(self._client):
            found = await self._client.config_get(name)
        return str(found.get(name, ""))

    async def clock_ahead_s(self) -> float:
        """Return how far the server's clock is ahead of ours, to half a round trip."""
        began = time.time()
        async with probe_errors(self._client):
            seconds, microseconds = await self._client.time()
        theirs: float = seconds + microseconds / 1e6
        return theirs - (began + time.time()) / 2

    async def blocked_s(self, block_s: float) -> float:
        """Return how long a read for new entries really waits, on a stream that is not there."""
        began = time.monotonic()
        async with probe_errors(self._client):
            await self._client.xread({_NOWHERE: "$"}, block=max(1, round(block_s * 1000)))
        return time.monotonic() - began

    async def understands(self, command: tuple[str | int, ...]) -> bool:
        """Say whether the server knows a command in this form; one that changes nothing."""
        try:
            async with translate_errors(self._client):
                await self._client.execute_command(*command)
        except ResponseError as error:
            return not any(word in str(error).lower() for word in _NOT_KNOWN)
        except RedisUnavailable as error:
            if error.kind in GONE:
                raise
        except (GroupMissing, PermissionRefused):
            pass
        return True

    async def refusal(self, command: tuple[str | int, ...]) -> str | None:
        """Try a command that changes nothing; returns what the server says if it may not be run.

        Any other answer means that the right is there.
        """
        try:
            async with translate_errors(self._client):
                await self._client.execute_command(*command)
                if command[0] == "SUBSCRIBE":  # after which a connection takes nothing else
                    await self._client.connection_pool.disconnect()
        except PermissionRefused as error:
            return str(error.__cause__)
        except RedisUnavailable as error:
            if error.kind in GONE:
                raise
        except GroupMissing:
            pass
        except ResponseError as error:
            return str(error) if "unknown command" in str(error) else None
        return None


@asynccontextmanager
async def probe_errors(client: Client) -> AsyncIterator[None]:
    """Turn Redis' errors into ours; those without a name are refusals."""
    try:
        async with translate_errors(client):
            yield
    except ResponseError as error:
        raise PermissionRefused(str(error)) from error
