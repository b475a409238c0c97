"""What a group lost by trimming, told from figures alone, on a model of both lines of servers."""

from dataclasses import dataclass

from hypothesis import example, given, strategies as st

from worker.core.group_stats import (
    START,
    GroupStats,
    LossState,
    count_unread,
    id_parts,
    lag,
    previous_id,
)


def steps(*kinds: str) -> st.SearchStrategy[list[tuple[str, int]]]:
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(1, 6)), max_size=40)


STEPS = steps("add", "take", "trim", "cleanup")
RESTARTS = steps("add", "take", "trim_read", "cleanup", "rewrite", "restart", "restart_without")


@dataclass
class Modelled:
    """A stream whose ids count from 1, and a group that reads it.

    A server that mends sets the group's count right when it reads beyond a gap. One that does not
    forgets at a restart what was read since the last rewrite of its append-only file, or all.
    """

    mends: bool
    added: int = 0
    trimmed: int = 0
    cursor: int = 0
    read: int | None = 0
    rewritten: int | None = 0
    lost: int = 0
    tidied: int = 0

    def add(self, number: int) -> None:
        self.added += number

    def take(self, number: int) -> None:
        for _ in range(min(number, self.lag)):
            self._take_one()

    def trim(self, number: int) -> None:
        trimmed = min(self.added, self.trimmed + number)
        self.lost += max(0, trimmed - max(self.cursor, self.trimmed))
        self.trimmed = trimmed

    def trim_read(self, number: int) -> None:
        self.trimmed += min(number, max(0, self.cursor - self.trimmed))

    def cleanup(self, number: int) -> None:
        self._tidy(min(number, max(0, self.cursor - self.trimmed)))

    def tidy_all(self, number: int) -> None:
        self._tidy(min(number, max(0, self.added - self.trimmed - 1)))

    def rewrite(self, _number: int) -> None:
        self.rewritten = self.read

    def restart(self, _number: int) -> None:
        self.read = self.rewritten

    def restart_without(self, _number: int) -> None:
        self.read = None

    def _tidy(self, number: int) -> None:
        self.trimmed += number
        self.tidied += number

    def _take_one(self) -> None:
        has_gap = self.cursor < self.trimmed
        self.cursor = max(self.cursor, self.trimmed) + 1
        if self.read is None or (self.mends and has_gap):
            self.read = self.cursor
        else:
            self.read += 1

    def figures(self) -> GroupStats:
        length = self.added - self.trimmed
        return GroupStats(
            length=length,
            first=b"%d-0" % (self.trimmed + 1) if length else None,
            newest=b"%d-0" % self.added if length else None,
            added=self.added,
            delivered=b"%d-0" % self.cursor,
            read=self.read,
            stated_lag=None if self.read is None else self.added - self.read,
            pending=0,
            oldest_pending=None,
            trimmed=self.tidied,
        )

    @property
    def lag(self) -> int:
        return self.added - max(self.cursor, self.trimmed)


def looked_at(server: Modelled, steps: list[tuple[str, int]]) -> int:
    """Do the steps and look after each; what was counted as lost in all."""
    counted, losses = 0, LossState()
    for what, number in steps:
        getattr(server, what)(number)
        shown = lag(server.figures(), losses)
        lost, known = count_unread(server.figures(), losses)
        assert known is not None
        counted, losses = counted + lost, known
        # An older losses may leave the lag unknown, or too high for one look; never too low.
        assert shown is None or shown >= server.lag
        assert lag(server.figures(), losses) in (None, server.lag)
    return counted


@given(STEPS)
def test_a_server_that_does_not_mend_is_counted_exactly(steps: list[tuple[str, int]]) -> None:
    server = Modelled(mends=False)
    assert looked_at(server, steps) == server.lost


@given(STEPS)
def test_a_server_that_mends_is_never_overcounted(steps: list[tuple[str, int]]) -> None:
    """Some loss is always seen where there was some."""
    server = Modelled(mends=True)
    counted = looked_at(server, steps)
    assert counted <= server.lost
    assert (counted > 0) == (server.lost > 0)


@given(STEPS)
@example([("add", 10), ("trim", 4), ("take", 6), ("trim", 7), ("take", 1), ("trim", 2)])
def test_once_it_is_known_to_mend_every_loss_is_counted(steps: list[tuple[str, int]]) -> None:
    server = Modelled(mends=True)
    known = [("add", 6), ("trim", 3), ("take", 6)]
    assert looked_at(server, known + steps) == server.lost


@given(RESTARTS)
def test_what_a_restart_forgot_is_no_loss(steps: list[tuple[str, int]]) -> None:
    """However far the group was behind, and whoever trimmed what it had read."""
    assert looked_at(Modelled(mends=False), steps) == 0


@given(steps("add", "take", "cleanup", "tidy_all"))
def test_what_its_own_workers_trim_is_not_estimated(steps: list[tuple[str, int]]) -> None:
    """They say what was unread."""
    assert looked_at(Modelled(mends=False), steps) == 0
    assert looked_at(Modelled(mends=True), steps) == 0


def test_ids_are_ordered_by_their_numbers() -> None:
    assert id_parts(b"9-2") < id_parts(b"10-1") < id_parts(b"10-18446744073709551615")
    assert previous_id(b"10-1") == b"10-0"
    assert previous_id(b"10-0") == b"9-18446744073709551615"
    assert previous_id(START) == START
