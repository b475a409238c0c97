"""State of a consumer group, and the only formulas for its lag and for entries lost unread.

Ids have Redis' form `<milliseconds>-<sequence>`; a position is an id up to which all is settled.
"""

from typing import Final

from msgspec import Struct

START: Final = b"0-0"
"""Smaller than every id of an entry."""

_GREATEST_SEQUENCE: Final = 2**64 - 1


class CountBaseline(Struct, frozen=True, gc=False):
    """The server's counts at the last measurement, kept beside the stream.

    `excess` is what `added - read` showed too much when the group was last caught up, None while
    that is unknown; `gap` is the number of entries that were missing in front of the group.
    """

    delivered: bytes
    read: int
    excess: int | None
    gap: int = 0


class GroupStats(Struct, frozen=True, gc=False):
    """Stream and group as one reply of the server; None where it does not know, or there is none.

    `added` and `read` count entries since stream and group exist (Redis 7.0 and later);
    `stated_lag` is the server's own figure. `first` and `newest` are ids; `delivered` is the last
    id handed to the group.
    """

    length: int
    first: bytes | None
    newest: bytes | None
    added: int | None
    delivered: bytes
    read: int | None
    stated_lag: int | None
    pending: int
    oldest_pending: bytes | None
    consumers: int = 0
    baseline: CountBaseline | None = None

    @property
    def position(self) -> bytes:
        """The id up to which everything was acknowledged."""
        if self.oldest_pending is None:
            return self.delivered
        return min(previous_id(self.oldest_pending), self.delivered, key=id_parts)

    @property
    def oldest_pending_s(self) -> float | None:
        """When the oldest pending entry was added, in Unix time."""
        return None if self.oldest_pending is None else id_parts(self.oldest_pending)[0] / 1000

    @property
    def is_caught_up(self) -> bool:
        """Whether the group was handed all that the stream holds."""
        return self.newest is None or id_parts(self.delivered) >= id_parts(self.newest)

    @property
    def is_cut_off(self) -> bool:
        """Whether the stream begins behind the group's last id: what stood between is gone."""
        return self.first is not None and id_parts(self.delivered) < id_parts(self.first)

    @property
    def lag(self) -> int | None:
        """How many entries the group has still to read, None where that cannot be told.

        The server's own figure includes trimmed entries, on Redis 7.0 even after the group has
        read beyond them.
        """
        if self.is_caught_up:
            return 0
        if self.is_cut_off:
            return self.length
        excess = self._excess
        if self.stated_lag is None or excess is None:
            return None
        lag = self.stated_lag - excess
        return lag if 0 <= lag <= self.length else None

    @property
    def unread_gap(self) -> int | None:
        """At least how many entries are gone that the group had still to read, None if unknown.

        They are seen until the group reads beyond them. Unknown before Redis 7.0, and while the
        server's counts cannot be trusted.
        """
        if self.newest is not None and not self.is_cut_off:
            return 0
        short, excess = self._short, self._excess
        return None if short is None or excess is None else max(0, short - excess)

    @property
    def next_baseline(self) -> CountBaseline | None:
        """What to keep of this measurement; None where the server never counted."""
        short = self._short
        if short is None:
            return None if self.baseline is None else CountBaseline(self.delivered, 0, None)
        excess, gap = self._excess, self.unread_gap
        if self.baseline is None or gap is None:
            # What is missing already may have been gone before the group was created.
            excess, gap = (short if gap is None or gap else excess), 0
        elif self.is_caught_up and not gap:
            excess = short
        return CountBaseline(self.delivered, self._read or 0, excess, gap)

    @property
    def _read(self) -> int | None:
        return 0 if self.delivered == START else self.read

    @property
    def _short(self) -> int | None:
        """How many entries were added that the group neither read nor can read."""
        if self.added is None or self._read is None:
            return None
        return self.added - self._read - (0 if self.is_caught_up else self.length)

    @property
    def _excess(self) -> int | None:
        """The baseline's excess, None where it does not hold any more.

        Redis 7.0 restarts or fails over with the count of its last rewrite, or none. A group that
        was set back counts anew. Behind a gap, some servers correct their count and some do not.
        """
        before = self.baseline
        if before is None:
            return 0
        moved = id_parts(self.delivered) > id_parts(before.delivered)
        was_set_back = id_parts(self.delivered) < id_parts(before.delivered)
        was_forgotten = self._read is None or self._read < before.read
        if was_set_back or was_forgotten or (before.gap and moved):
            return None
        return before.excess


def id_parts(entry_id: bytes) -> tuple[int, int]:
    """Return an id as two numbers, which can be compared."""
    ms, _, sequence = entry_id.partition(b"-")
    return int(ms), int(sequence or 0)


def previous_id(entry_id: bytes) -> bytes:
    """Return the next smaller id; that of `START` is itself."""
    ms, sequence = id_parts(entry_id)
    if sequence:
        return b"%d-%d" % (ms, sequence - 1)
    return b"%d-%d" % (ms - 1, _GREATEST_SEQUENCE) if ms else START
