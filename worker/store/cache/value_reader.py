"""What keys hold in Redis, by the script beside this module: always in one round trip."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import anyio

from worker.core.cache_keys import CacheKeys
from worker.store.client import Client, load_script, translate_errors

_CONNECTIONS: Final = 32
"""Questions to Redis at one time: each takes a connection of its own."""

ID_BYTES: Final = 40
"""What a number in a list takes."""


class KeyRequest(NamedTuple):
    """A key to read, and how to read its value; None stands for a value that is not one of ours."""

    key: str
    parse: Callable[[bytes], Any]


class TimelineWindow(NamedTuple):
    """Which messages of a timeline to bring along: those between two ids, `most` of them.

    `stem` is what stands before the id in a message's key.
    """

    timeline: str
    stem: str
    after: int
    before: int
    most: int
    newest: bool


class ReadValue(NamedTuple):
    """What a key holds, read already, None where there is nothing of ours.

    `size` is what it takes in memory, in bytes; `life_s` the seconds it has left, None without end.
    """

    value: Any
    size: int
    life_s: float | None


class FetchResult(NamedTuple):
    """The account that the instance belongs to, and the values by their keys."""

    owner: ReadValue
    values: dict[str, ReadValue]


class RedisValueReader:
    """The values of one prefix; `timed` asks for the time each has left, too."""

    def __init__(self, client: Client, prefix: str, *, timed: bool) -> None:
        self._client = client
        self._accounts = CacheKeys(prefix).accounts
        self._timed = timed
        self._read = load_script(client, __file__, "read_values")
        self._room = anyio.CapacityLimiter(_CONNECTIONS)

    async def fetch(
        self,
        instance: str,
        wanted: Sequence[KeyRequest],
        window: TimelineWindow | None,
        parse: Callable[[bytes], Any],
    ) -> FetchResult:
        """Read keys, and with a window its timeline and messages, which `parse` reads."""
        keys = [self._accounts, *(key for key, _ in wanted)]
        keys += [window.timeline] if window else []
        arguments = [instance, int(self._timed), *(_bounds(window) if window else ())]
        async with self._room, translate_errors(self._client):
            reply = await self._read(keys, arguments)
        return _fetched(reply, wanted, window, parse)

    async def ping(self) -> None:
        """Raise unless the server answers."""
        async with translate_errors(self._client):
            await self._client.ping()


def _bounds(window: TimelineWindow) -> tuple[str | int, ...]:
    order = "newest" if window.newest else "oldest"
    return window.stem, order, window.most, window.after, window.before


def _fetched(
    reply: Any,
    wanted: Sequence[KeyRequest],
    window: TimelineWindow | None,
    parse: Callable[[bytes], Any],
) -> FetchResult:
    account, ids, chosen, values, (life, *lives) = reply
    owner = ReadValue(as_account(account), 0, _seconds(life))
    found: dict[str, ReadValue] = {}
    if window:
        timeline = as_ids(ids.split())
        size = ID_BYTES * len(timeline)
        found[window.timeline] = ReadValue(timeline, size, _seconds(lives.pop(0)))
        wanted = [*wanted, *(KeyRequest(f"{window.stem}{i.decode()}", parse) for i in chosen)]
    for (key, read), value, left in zip(wanted, values, lives, strict=True):
        known = None if value is None else read(value)
        found[key] = ReadValue(known, len(value or b""), _seconds(left))
    return FetchResult(owner, found)


def as_account(value: bytes | None) -> int | None:
    """Read the account of an instance."""
    return int(value) if value and value.isdigit() else None


def as_ids(members: Iterable[bytes]) -> list[int]:
    """Read the members of a timeline."""
    return [int(member) for member in members if member.isdigit()]


def _seconds(life_ms: int) -> float | None:
    """A key that is not there has no end either: whoever creates it is heard of."""
    return life_ms / 1000 if life_ms >= 0 else None
