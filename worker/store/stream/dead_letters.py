"""The dead-letter stream: entries that could not be used, with the reason."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Final

import msgspec

from worker.core.cache_keys import dead_key
from worker.core.stream_entry import BuryResult, DeadEntry
from worker.store.client import Client, load_script
from worker.store.stream.batch_size import split
from worker.store.stream.stream_errors import stream_errors
from worker.store.stream.stream_settings import StreamSettings

_MAX_FIELDS: Final = 1000
"""More would overflow the stack of the server's Lua."""


class DeadLetterStream:
    """The dead letters of one stream, written by one consumer and limited by the settings."""

    def __init__(self, client: Client, settings: StreamSettings) -> None:
        self._client = client
        self._settings = settings
        self._keys = (settings.key, dead_key(settings.key))
        self._limits = (settings.dead_max_entries, round(settings.dead_retention_s))
        self._bury = load_script(client, __file__, "bury_entries")

    async def bury(self, dead_entries: Sequence[DeadEntry]) -> BuryResult:
        """Move entries to the dead letters and acknowledge them, each in one step."""
        acked = dropped = 0
        for part in split(dead_entries):
            buried = await self._bury_part(part)
            acked, dropped = acked + buried.acked, dropped + buried.dropped
        return BuryResult(acked, dropped)

    async def drop_old(self) -> int:
        """Drop dead letters beyond their retention; returns how many."""
        return (await self._bury_part([])).dropped

    async def _bury_part(self, dead_entries: Sequence[DeadEntry]) -> BuryResult:
        arguments: list[bytes | str | int] = [self._settings.group, *self._limits]
        for dead_entry in dead_entries:
            fields = self._fields(dead_entry)
            arguments += (dead_entry.entry.id, 2 * len(fields))
            arguments += chain.from_iterable(fields.items())
        async with stream_errors(self._client, self._settings.key):
            acked, dropped = await self._bury(self._keys, arguments)
        return BuryResult(acked, dropped)

    def _fields(self, dead_entry: DeadEntry) -> dict[bytes, bytes]:
        entry = dead_entry.entry
        return {
            **_limited(entry.fields),
            b"_id": entry.fields.get(b"_id", entry.id),
            b"_stream": self._settings.key.encode(),
            b"_reason": dead_entry.error.reason.encode(),
            b"_error": str(dead_entry.error).encode(),
            b"_attempts": str(entry.attempts).encode(),
            b"_consumer": self._settings.consumer.encode(),
            b"_at": datetime.now(UTC).isoformat(timespec="milliseconds").encode(),
        }


def _limited(fields: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return at most `_MAX_FIELDS` fields, and the rest in one more as JSON."""
    if len(fields) <= _MAX_FIELDS:
        return dict(fields)
    items = list(fields.items())
    rest = {name.decode("latin-1"): value.decode("latin-1") for name, value in items[_MAX_FIELDS:]}
    return {**dict(items[:_MAX_FIELDS]), b"_more": msgspec.json.encode(rest)}
