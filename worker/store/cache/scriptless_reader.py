"""Reads values from Redis with plain commands, for users whose ACL allows no scripts."""

from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from worker.core.cache_keys import CacheKeys
from worker.store.cache.value_reader import (
    KeyRequest,
    ReadValue,
    TimelineWindow,
    parse_account,
    parse_ids,
)
from worker.store.client import Client, translate_errors


class ScriptlessReader:
    """Reads the values of one prefix in several round trips, without their TTL."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._accounts = CacheKeys(prefix).accounts

    async def fetch(
        self, instance: str, requests: Sequence[KeyRequest], window: TimelineWindow | None
    ) -> dict[str, ReadValue]:
        """Read keys, and of a window the timeline without its messages."""
        account = await self._execute("HGET", self._accounts, instance)
        results = {self._accounts: ReadValue(parse_account(account))}
        if window:
            members = await self._execute("ZRANGE", window.timeline, 0, -1)
            results[window.timeline] = ReadValue(parse_ids(members or ()))
        if requests:
            values = await self._execute("MGET", *(key for key, _ in requests))
            for (key, parse), value in zip(requests, values, strict=True):
                results[key] = ReadValue(None if value is None else parse(value))
        return results

    async def ping(self) -> None:
        """Raise unless the server answers."""
        async with translate_errors(self._client):
            await self._client.ping()

    async def _execute(self, *command: Any) -> Any:
        """Return the reply; None if the key holds a value of another type."""
        async with translate_errors(self._client):
            try:
                return await self._client.execute_command(*command)
            except ResponseError as error:
                if str(error).startswith("WRONGTYPE"):
                    return None
                raise
