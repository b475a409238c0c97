"""Outcomes: the worst of an entry's documents is the entry's."""

from itertools import combinations_with_replacement

import pytest

from worker.core.model import Outcome, worst

WORST_FIRST = [Outcome.DEAD, Outcome.APPLIED, Outcome.STALE, Outcome.IGNORED]


@pytest.mark.parametrize("outcomes", list(combinations_with_replacement(WORST_FIRST, 2)))
def test_dead_is_worse_than_applied_and_that_than_stale(
    outcomes: tuple[Outcome, Outcome],
) -> None:
    worse, better = outcomes

    assert worst([worse, better]) == worst([better, worse]) == worse
