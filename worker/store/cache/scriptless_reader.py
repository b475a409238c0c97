"""What keys hold in Redis, by plain commands: for users who may run no scripts."""

from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from worker.core.cache_keys import CacheKeys
from worker.store.cache.value_reader import (
    FetchResult,
    KeyRequest,
    ReadValue,
    TimelineWindow,
    as_account,
    as_ids,
)
from worker.store.client import Client, translate_errors


class ScriptlessReader:
    """The values of one prefix, in as many round trips as it takes, and without their ends."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._accounts = CacheKeys(prefix).accounts

    async def fetch(
        self,
        instance: str,
        wanted: Sequence[KeyRequest],
        window: TimelineWindow | None,
        parse: Callable[[bytes], Any],  # noqa: ARG002  (a window brings its timeline only)
    ) -> FetchResult:
        """Read keys, and with a window its timeline."""
        found: dict[str, ReadValue] = {}
        account = await self._ask("HGET", self._accounts, instance)
        if window:
            members = await self._ask("ZRANGE", window.timeline, 0, -1)
            found[window.timeline] = ReadValue(as_ids(members or ()), 0, None)
        if wanted:
            values = await self._ask("MGET", *(key for key, _ in wanted))
            for (key, read), value in zip(wanted, values, strict=True):
                found[key] = ReadValue(None if value is None else read(value), 0, None)
        return FetchResult(ReadValue(as_account(account), 0, None), found)

    async def ping(self) -> None:
        """Raise unless the server answers."""
        async with translate_errors(self._client):
            await self._client.ping()

    async def _ask(self, *command: Any) -> Any:
        """Return a reply, None where the key holds a value of a type that is none of ours."""
        async with translate_errors(self._client):
            try:
                return await self._client.execute_command(*command)
            except ResponseError as error:
                if str(error).startswith("WRONGTYPE"):
                    return None
                raise
