"""How a consumer group stands, and what of the stream it never saw.

Ids are Redis', `<milliseconds>-<sequence>`; a position is an id up to which all is settled.
"""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

START: Final = b"0-0"
"""Before every id there can be."""

_GREATEST_SEQUENCE: Final = 2**64 - 1


class GroupStats(Struct, frozen=True, gc=False):
    """What the server says of stream and group; None where it does not know, or there is none.

    `added` and `read` count entries since stream and group exist (Redis 7.0 and later);
    `stated_lag` is what the server takes for the group's lag. `first` and `newest` are ids,
    `delivered` is the last one that the group was handed.
    `trimmed` entries were trimmed by the group's own workers, who know which were unread.
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
    trimmed: int = 0

    @property
    def gone(self) -> int:
        """How many entries left the stream otherwise, as far as the server counts them."""
        return (self.added or 0) - self.length - self.trimmed

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
        """Whether the group was handed out all that the stream holds."""
        return self.newest is None or id_parts(self.delivered) >= id_parts(self.newest)

    @property
    def is_cut_off(self) -> bool:
        """Whether the stream begins behind the group's cursor: what stood between is gone."""
        return self.first is not None and id_parts(self.delivered) < id_parts(self.first)


class LossState(Struct, frozen=True, gc=False):
    """What of the entries that were trimmed unread was counted already.

    `seen` is the shortfall when it was last looked at, `cursor` where the group stood then,
    `gone` how many entries had left the stream, but for those that the group's own workers trimmed.
    Newer servers mend a group's `entries-read` once it reads beyond a gap, Redis 7.0 does not:
    `mends` says which one this is, None until it was seen.
    `handed` is what the server last said was read; where it says less, it forgot the rest, and
    `seen` is None until the next look that shows a shortfall.
    """

    seen: int | None = 0
    cursor: bytes = START
    mends: bool | None = None
    gone: int = 0
    handed: int = 0


def count_unread(figures: GroupStats, losses: LossState | None) -> tuple[int, LossState | None]:
    """Return how many more entries others trimmed before the group read them, and what is counted.

    An estimate: nothing where the server does not count (before Redis 7.0), too little where a
    gap opened and was passed between two looks, too much where entries were deleted one by one.
    Without `losses`, a group that has read nothing yet has lost nothing; nor has one that somebody
    set back, to read again, what was trimmed before.
    Redis 7.0 writes no `entries-read` to its append-only file, nor to replicas, and restarts or
    fails over with that of the last rewrite, or none: that is no loss, and never is more lost than
    left the stream meanwhile.
    """
    if figures.added is None:
        return 0, losses
    read = 0 if figures.delivered == START else figures.read
    if losses and (read is None or _has_forgotten(figures, losses, read)):
        losses = replace(losses, seen=None)
    if read is None:
        return 0, losses
    if not (figures.is_caught_up or figures.is_cut_off):
        return 0, losses and replace(losses, handed=read)
    short = max(0, figures.added - read - (0 if figures.is_caught_up else figures.length))
    mends = None if losses is None else _mends(figures, losses, short)
    base = _counted(figures, losses, short, mends=mends)
    left = figures.gone - (losses.gone if losses else 0)
    lost = max(0, min(short - base, left))
    return lost, LossState(short, figures.delivered, mends, figures.gone, read)


def _has_forgotten(figures: GroupStats, losses: LossState, read: int) -> bool:
    was_set_back = id_parts(figures.delivered) < id_parts(losses.cursor)
    return read < losses.handed and not was_set_back


def _mends(figures: GroupStats, losses: LossState, short: int) -> bool | None:
    """Say whether the server mends its count, once the group has passed a gap."""
    has_moved = id_parts(figures.delivered) > id_parts(losses.cursor)
    if not losses.seen or not has_moved:
        return losses.mends
    if figures.is_caught_up and figures.gone == losses.gone:
        return short < losses.seen
    # A server that was seen to mend stays one: a new gap may be as large as the one it mended.
    return True if short < losses.seen else losses.mends


def _counted(
    figures: GroupStats, losses: LossState | None, short: int, *, mends: bool | None
) -> int:
    """Return how much of a shortfall was counted before."""
    if losses is None:
        return short if figures.delivered == START else 0
    if losses.seen is None or id_parts(figures.delivered) < id_parts(losses.cursor):
        return short
    if mends and figures.delivered != losses.cursor:
        return 0
    return losses.seen


def lag(figures: GroupStats, losses: LossState | None) -> int | None:
    """Return how many entries the group has still to read, None where that cannot be told.

    The server's own figure counts entries that were trimmed, for good on Redis 7.0.
    """
    if figures.is_caught_up:
        return 0
    if figures.is_cut_off:
        return figures.length
    if figures.stated_lag is None or losses is None:
        return _possible(figures, figures.stated_lag)
    if losses.seen is None or (losses.mends is None and losses.seen):
        return None
    return _possible(figures, figures.stated_lag - (0 if losses.mends else losses.seen))


def _possible(figures: GroupStats, stated: int | None) -> int | None:
    return stated if stated is not None and 0 <= stated <= figures.length else None


def id_parts(entry_id: bytes) -> tuple[int, int]:
    """Return an id in a form that can be compared."""
    ms, _, sequence = entry_id.partition(b"-")
    return int(ms), int(sequence or 0)


def previous_id(entry_id: bytes) -> bytes:
    """Return the greatest id that is smaller; that of `START` is itself."""
    ms, sequence = id_parts(entry_id)
    if sequence:
        return b"%d-%d" % (ms, sequence - 1)
    return b"%d-%d" % (ms - 1, _GREATEST_SEQUENCE) if ms else START
