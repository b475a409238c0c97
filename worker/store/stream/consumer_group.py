"""One consumer group of one stream: its creation, its state, its consumers."""

from itertools import chain
from typing import Final

from msgspec import Struct

from worker.core.group_stats import START, CountBaseline, GroupStats
from worker.core.stream_keys import StreamKeys
from worker.store.client import Client, load_script
from worker.store.stream.stream_errors import stream_errors

POSITION_TTL_S: Final = 7 * 86_400
"""How long a group's saved position outlives the last worker that saved it."""

_POSITION_FIELDS: Final = ("id", "read", "witness", "unsettled")


class CreatedGroup(Struct, frozen=True, gc=False):
    """A group that was just created, and the id behind which it reads.

    `again` when there had been one; then about `lost` entries were never settled and are gone.
    `set_back_from` is where the group stood that somebody else had created ahead of the saved
    position.
    """

    position: str
    again: bool
    lost: int
    set_back_from: str | None = None


class ConsumerGroup:
    """A group, seen by one of its consumers."""

    def __init__(self, client: Client, stream: str, group: str, consumer: str) -> None:
        self._client = client
        self._stream = stream
        self._group = group
        self._consumer = consumer
        self._position_key = StreamKeys(stream, group).position
        self._create = load_script(client, __file__, "create_group")
        self._read_stats = load_script(client, __file__, "group_stats")
        self._save_position = load_script(client, __file__, "save_position")
        self._retire = load_script(client, __file__, "retire_consumers")
        # A server that was flushed has lost the saved position.
        self._last_saved: dict[str, str | int] = {}

    async def create(self) -> CreatedGroup | None:
        """Create stream and group where the group is missing, from its saved position if any.

        None when the group exists. A group that never existed begins at the stream's beginning.
        One that somebody else created ahead of the saved position is set back.
        """
        saved = [self._last_saved.get(name, "") for name in _POSITION_FIELDS]
        async with stream_errors(self._client, self._stream):
            reply = await self._create(
                [self._stream, self._position_key], [self._group, POSITION_TTL_S, *saved]
            )
        self._last_saved = self._last_saved or {"id": START.decode()}
        if not reply:
            return None
        position, again, lost, set_back_from = reply
        return CreatedGroup(position.decode(), bool(again), lost, set_back_from.decode() or None)

    async def stats(self) -> GroupStats:
        """Return the state of stream and group."""
        async with stream_errors(self._client, self._stream):
            *stats, counted_at, counted, excess, gap = await self._read_stats(
                [self._stream, self._position_key], [self._group]
            )
        stats.append(
            CountBaseline(counted_at, int(counted), int(excess) if excess else None, int(gap))
            if counted_at
            else None
        )
        return GroupStats(*stats)

    async def save(self, stats: GroupStats) -> None:
        """Keep the group's position and counts beside the stream.

        A group without consumers is not saved: somebody else may have created it ahead of the
        saved position.
        """
        if not stats.consumers:
            return
        self._last_saved = _fields(stats)
        fields = chain.from_iterable(self._last_saved.items())
        async with stream_errors(self._client, self._stream):
            await self._save_position([self._position_key], [POSITION_TTL_S, *fields])

    async def consumer_idle_ms(self) -> int | None:
        """Return how long our consumer name has not been used, None when it never was."""
        async with stream_errors(self._client, self._stream):
            consumers = await self._client.xinfo_consumers(self._stream, self._group)
        name = self._consumer.encode()
        return next((int(c["idle"]) for c in consumers if c["name"] == name), None)

    async def retire(self, idle_s: float) -> int:
        """Delete other consumers without pending entries that were idle for `idle_s` seconds."""
        arguments = (self._group, self._consumer, round(idle_s * 1000))
        async with stream_errors(self._client, self._stream):
            return int(await self._retire([self._stream], arguments))


def _fields(stats: GroupStats) -> dict[str, str | int]:
    """Return what the group needs to be created again where it stood, and its counts."""
    is_done = stats.is_caught_up and stats.pending == 0
    baseline = stats.next_baseline
    counts: dict[str, str | int] = {}
    if baseline:
        counts = {
            "counted_at": baseline.delivered.decode(),
            "counted": baseline.read,
            "excess": "" if baseline.excess is None else baseline.excess,
            "gap": baseline.gap,
        }
    return counts | {
        "id": stats.position.decode(),
        # The server's own count may be wrong; only here it is certain what it should be.
        "read": stats.added if is_done and stats.added is not None else "",
        "witness": stats.newest.decode() if stats.newest else "",
        "unsettled": stats.pending + (stats.lag or 0),
    }
