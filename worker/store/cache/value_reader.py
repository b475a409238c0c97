"""Reads values from Redis with the script `read_values.lua`, in one round trip."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import anyio

from worker.core.cache_keys import CacheKeys
from worker.store.client import Client, load_script, translate_errors

_MAX_CONCURRENT_READS: Final = 32
"""Each read takes a connection of its own."""

ID_BYTES: Final = 40
"""Memory of one number in a list."""


class KeyRequest(NamedTuple):
    """A key to read, and the parser of its value; the parser returns None for a foreign value."""

    key: str
    parse: Callable[[bytes], Any]


class TimelineWindow(NamedTuple):
    """A timeline to read, with up to `limit` messages whose ids are between `after` and `before`.

    `message_prefix` is the key of a message without its id, `parse` the parser of its value.
    """

    timeline: str
    message_prefix: str
    after: int
    before: int
    limit: int
    newest: bool
    parse: Callable[[bytes], Any]


class ReadValue(NamedTuple):
    """A parsed value, None if there is none; `size` in bytes.

    `ttl_s` is None without expiry, and for a missing key: its creation will be reported.
    """

    value: Any
    size: int = 0
    ttl_s: float | None = None


class ValueReader(Protocol):
    """A source of values: Redis by script, Redis by plain commands, or this process's memory."""

    async def fetch(
        self, instance: str, requests: Sequence[KeyRequest], window: TimelineWindow | None
    ) -> dict[str, ReadValue]:
        """Return values by key: of the requests, the timeline, and the accounts hash (the account).

        The window's messages may be included.
        """

    async def ping(self) -> None:
        """Raise unless values can be read."""


class RedisValueReader:
    """Reads the values of one prefix; `with_ttl` also reads the remaining TTL of each."""

    def __init__(self, client: Client, prefix: str, *, with_ttl: bool) -> None:
        self._client = client
        self._accounts = CacheKeys(prefix).accounts
        self._with_ttl = with_ttl
        self._script = load_script(client, __file__, "read_values")
        self._limiter = anyio.CapacityLimiter(_MAX_CONCURRENT_READS)

    async def fetch(
        self, instance: str, requests: Sequence[KeyRequest], window: TimelineWindow | None
    ) -> dict[str, ReadValue]:
        """Read keys, and of a window the timeline and its messages."""
        keys = [self._accounts, *(request.key for request in requests)]
        arguments: list[str | int] = [instance, int(self._with_ttl)]
        if window:
            keys.append(window.timeline)
            order = "newest" if window.newest else "oldest"
            arguments += (window.message_prefix, order, window.limit, window.after, window.before)
        async with self._limiter, translate_errors(self._client):
            reply = await self._script(keys, arguments)
        return _parse_reply(reply, self._accounts, requests, window)

    async def ping(self) -> None:
        """Raise unless the server answers."""
        async with translate_errors(self._client):
            await self._client.ping()


def _parse_reply(
    reply: Any, accounts_key: str, requests: Sequence[KeyRequest], window: TimelineWindow | None
) -> dict[str, ReadValue]:
    account, ids, window_ids, values, ttls_ms = reply
    rows: list[tuple[str, Any, int]] = [(accounts_key, parse_account(account), 0)]
    if window:
        timeline = parse_ids(ids.split())
        rows.append((window.timeline, timeline, ID_BYTES * len(timeline)))
        message_keys = [f"{window.message_prefix}{i.decode()}" for i in window_ids]
        requests = [*requests, *(KeyRequest(key, window.parse) for key in message_keys)]
    for (key, parse), value in zip(requests, values, strict=True):
        rows.append((key, None if value is None else parse(value), len(value or b"")))
    return {
        key: ReadValue(value, size, ttl_ms / 1000 if ttl_ms >= 0 else None)
        for (key, value, size), ttl_ms in zip(rows, ttls_ms, strict=True)
    }


def parse_account(value: bytes | None) -> int | None:
    """Parse the account id of an instance."""
    return int(value) if value and value.isdigit() else None


def parse_ids(members: Iterable[bytes]) -> list[int]:
    """Parse the members of a timeline."""
    return [int(member) for member in members if member.isdigit()]
