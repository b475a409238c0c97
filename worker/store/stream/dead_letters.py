"""The dead letters: what could not be used, beside the stream it came from."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from worker.core.stream_entry import BuryResult, DeadEntry
from worker.store.client import Client, load_script
from worker.store.stream.batch_size import split
from worker.store.stream.stream_errors import stream_errors

_MAX_FIELDS: Final = 1000
"""More would overflow the stack of the server's Lua."""


class DeadLetterStream:
    """The dead-letter stream of one stream, written for one consumer of one group.

    Bounded by a number of letters and by their age in seconds.
    """

    def __init__(
        self,
        client: Client,
        key: str,
        *,
        stream: str,
        group: str,
        consumer: str,
        max_entries: int,
        retention_s: float,
    ) -> None:
        self._client = client
        self._key = key
        self._stream = stream
        self._group = group
        self._consumer = consumer
        self._bounds = (max_entries, round(retention_s))
        self._bury = load_script(client, __file__, "bury_entries")

    async def bury(self, letters: Sequence[DeadEntry]) -> BuryResult:
        """Move entries to the dead letters and acknowledge them, each in one step."""
        acked = dropped = 0
        for some in split(letters):
            buried = await self._bury_some(some)
            acked, dropped = acked + buried.acked, dropped + buried.dropped
        return BuryResult(acked, dropped)

    async def drop_old(self) -> int:
        """Drop dead letters beyond their retention; returns how many."""
        return (await self._bury_some([])).dropped

    async def _bury_some(self, letters: Sequence[DeadEntry]) -> BuryResult:
        arguments: list[bytes | str | int] = [self._group, *self._bounds]
        for letter in letters:
            fields = self._fields(letter)
            arguments += (letter.entry.id, 2 * len(fields), *_flat(fields))
        async with stream_errors(self._client, self._stream):
            acked, dropped = await self._bury([self._stream, self._key], arguments)
        return BuryResult(acked, dropped)

    def _fields(self, letter: DeadEntry) -> dict[bytes, bytes]:
        entry = letter.entry
        return {
            **_bounded(entry.fields),
            b"_id": entry.fields.get(b"_id", entry.id),
            b"_stream": self._stream.encode(),
            b"_reason": letter.error.reason.encode(),
            b"_error": str(letter.error).encode(),
            b"_attempts": str(entry.attempts).encode(),
            b"_consumer": self._consumer.encode(),
            b"_at": datetime.now(UTC).isoformat(timespec="milliseconds").encode(),
        }


def _bounded(fields: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return fields few enough for one command; the surplus is kept in one of them, as JSON."""
    if len(fields) <= _MAX_FIELDS:
        return dict(fields)
    items = list(fields.items())
    kept, surplus = dict(items[:_MAX_FIELDS]), items[_MAX_FIELDS:]
    more = {name.decode("latin-1"): value.decode("latin-1") for name, value in surplus}
    return {**kept, b"_more": msgspec.json.encode(more)}


def _flat(fields: Mapping[bytes, bytes]) -> Iterable[bytes]:
    for name, value in fields.items():
        yield name
        yield value
