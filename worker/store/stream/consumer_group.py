"""The consumer group as a whole: how it stands, where it resumes, who is in it."""

from typing import Final

from msgspec import Struct

from worker.core.group_stats import START, GroupStats, LossState, lag
from worker.core.stream_keys import StreamKeys
from worker.store.client import Client, load_script
from worker.store.stream.stream_errors import stream_errors

POSITION_TTL_S: Final = 7 * 86_400
"""How long a group's position outlives the last worker that measured it."""


_MENDS: Final = {b"": None, b"0": False, b"1": True}


class NewGroup(Struct, frozen=True, gc=False):
    """A group that was just created, and from which id it is read.

    `again` when there had been one; then `lost` entries were never settled, at a guess.
    """

    position: str
    again: bool
    lost: int


class ConsumerGroup:
    """One group of one stream, seen by one of its consumers."""

    def __init__(self, client: Client, stream: str, group: str, consumer: str) -> None:
        self._client = client
        self._stream = stream
        self._group = group
        self._consumer = consumer
        self._position_key = StreamKeys(stream, group).position
        self._create = load_script(client, __file__, "create_group")
        self._look = load_script(client, __file__, "group_stats")
        self._remember = load_script(client, __file__, "save_position")
        self._retire = load_script(client, __file__, "retire_consumers")
        # What a flushed server does not know any more.
        self._known: dict[str, str | int] = {}

    async def create(self) -> NewGroup | None:
        """Create stream and group where the group is missing, from its last position if known.

        None when the group exists. A group that never was begins at the stream's beginning.
        """
        known = [self._known.get(name, "") for name in ("id", "read", "witness", "unsettled")]
        async with stream_errors(self._client, self._stream):
            reply = await self._create(
                [self._stream, self._position_key], [self._group, POSITION_TTL_S, *known]
            )
        self._known = self._known or {"id": START.decode()}
        if not reply:
            return None
        position, again, lost = reply
        return NewGroup(position.decode(), bool(again), lost)

    async def look(self) -> tuple[GroupStats, LossState | None]:
        """Ask how stream and group stand, and what was counted as lost by whichever worker."""
        async with stream_errors(self._client, self._stream):
            *figures, seen, cursor, mends, gone, handed = await self._look(
                [self._stream, self._position_key], [self._group]
            )
        found = GroupStats(*figures)
        self._known = _position(found, None)
        if seen is None:
            return found, None
        counted = int(seen) if seen else None
        return found, LossState(counted, cursor, _MENDS[mends], int(gone or 0), int(handed or 0))

    async def figures(self) -> GroupStats:
        """Ask how stream and group stand."""
        return (await self.look())[0]

    async def remember(
        self, figures: GroupStats, losses: LossState | None, *, instead_of: LossState | None
    ) -> bool:
        """Keep the group's position beside the stream, and what was counted as lost.

        False when another worker counted since the losses were `instead_of`.
        """
        self._known = _position(figures, losses)
        kept = self._known
        if losses is not None:
            kept = kept | _tally(losses) | {"handed": losses.handed}
        expected = ("", "", "", "") if instead_of is None else _tally(instead_of).values()
        fields = [part for pair in kept.items() for part in pair]
        async with stream_errors(self._client, self._stream):
            return bool(
                await self._remember([self._position_key], [POSITION_TTL_S, *expected, *fields])
            )

    async def consumer_idle_ms(self) -> int | None:
        """Return how long our consumer name has not been used, None when it never was."""
        async with stream_errors(self._client, self._stream):
            consumers = await self._client.xinfo_consumers(self._stream, self._group)
        name = self._consumer.encode()
        return next((int(c["idle"]) for c in consumers if c["name"] == name), None)

    async def retire(self, idle_s: float) -> int:
        """Delete other consumers that hold nothing and gave no sign of life for so long."""
        async with stream_errors(self._client, self._stream):
            return int(
                await self._retire(
                    [self._stream], [self._group, self._consumer, round(idle_s * 1000)]
                )
            )


def _position(figures: GroupStats, losses: LossState | None) -> dict[str, str | int]:
    """Return what the group needs to be created again where it stood."""
    is_done = figures.is_caught_up and figures.pending == 0
    return {
        "id": figures.position.decode(),
        # The server's own count may be wrong; only here it is certain what it should be.
        "read": figures.added if is_done and figures.added is not None else "",
        "witness": figures.newest.decode() if figures.newest else "",
        "unsettled": figures.pending + (lag(figures, losses) or 0),
    }


def _tally(losses: LossState) -> dict[str, str | int]:
    """Return what only who saw it unchanged may change."""
    mends = "" if losses.mends is None else int(losses.mends)
    return {
        "seen": "" if losses.seen is None else losses.seen,
        "cursor": losses.cursor.decode(),
        "mends": mends,
        "gone": losses.gone,
    }
