"""A group's lag and what it lost unread, on a model of both lines of servers."""

from dataclasses import dataclass

from hypothesis import given, strategies as st

from worker.core.group_stats import START, CountBaseline, GroupStats, id_parts, previous_id


def steps(*kinds: str) -> st.SearchStrategy[list[tuple[str, int]]]:
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(1, 6)), max_size=40)


STEPS = steps("add", "take", "trim", "trim_read")
RESTARTS = steps("add", "take", "trim_read", "rewrite", "restart", "restart_without")


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
    baseline: CountBaseline | None = None

    def add(self, number: int) -> None:
        self.added += number

    def take(self, number: int) -> None:
        for _ in range(min(number, self.lag)):
            self._take_one()

    def trim(self, number: int) -> None:
        self.trimmed = min(self.added, self.trimmed + number)

    def trim_read(self, number: int) -> None:
        self.trimmed += min(number, max(0, self.cursor - self.trimmed))

    def rewrite(self, _number: int) -> None:
        self.rewritten = self.read

    def restart(self, _number: int) -> None:
        self.read = self.rewritten

    def restart_without(self, _number: int) -> None:
        self.read = None

    def _take_one(self) -> None:
        has_gap = self.cursor < self.trimmed
        self.cursor = max(self.cursor, self.trimmed) + 1
        if self.read is None or (self.mends and has_gap):
            self.read = self.cursor
        else:
            self.read += 1

    def stats(self) -> GroupStats:
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
            baseline=self.baseline,
        )

    @property
    def lag(self) -> int:
        return self.added - max(self.cursor, self.trimmed)

    @property
    def gap(self) -> int:
        """What is gone between the group and the first entry that the stream holds."""
        return max(0, self.trimmed - self.cursor)


def measured(server: Modelled, steps: list[tuple[str, int]]) -> list[int]:
    """Do the steps and measure after each; returns each gap that was known."""
    server.baseline = server.stats().next_baseline
    gaps = []
    for what, number in steps:
        getattr(server, what)(number)
        stats = server.stats()
        assert stats.lag in (None, server.lag)
        assert (stats.unread_gap or 0) <= server.gap
        gaps.append(stats.unread_gap or 0)
        server.baseline = stats.next_baseline
        assert server.stats().lag in (None, server.lag)
    return gaps


@given(STEPS, st.booleans())
def test_the_lag_is_right_or_unknown_and_no_gap_is_too_large(
    steps: list[tuple[str, int]],
    mends: bool,  # noqa: FBT001 - hypothesis passes it by position
) -> None:
    measured(Modelled(mends=mends), steps)


@given(STEPS, st.booleans())
def test_a_gap_is_seen_by_a_group_that_was_caught_up(
    steps: list[tuple[str, int]],
    mends: bool,  # noqa: FBT001 - hypothesis passes it by position
) -> None:
    server = Modelled(mends=mends)
    known = [*steps, ("add", 6), ("take", 300)]

    assert measured(server, [*known, ("add", 10), ("trim", 300)])[-1] == 10
    server.add(2)
    assert server.stats().unread_gap == server.gap == 10
    assert server.stats().lag == 2


@given(RESTARTS)
def test_what_a_restart_forgot_is_no_loss(steps: list[tuple[str, int]]) -> None:
    """However far the group was behind, and whoever trimmed what it had read."""
    assert not any(measured(Modelled(mends=False), steps))


def test_entries_that_were_gone_before_the_first_measurement_are_no_loss() -> None:
    """They may have been gone before the group was created; later ones are one."""
    server = Modelled(mends=False, added=10, trimmed=6)
    assert server.stats().unread_gap == 6
    server.baseline = server.stats().next_baseline
    assert server.stats().unread_gap == 0
    server.trim(2)
    assert server.stats().unread_gap == 2


def test_ids_are_ordered_by_their_numbers() -> None:
    assert id_parts(b"9-2") < id_parts(b"10-1") < id_parts(b"10-18446744073709551615")
    assert previous_id(b"10-1") == b"10-0"
    assert previous_id(b"10-0") == b"9-18446744073709551615"
    assert previous_id(START) == START
