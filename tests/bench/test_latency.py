"""Which push belongs to which event."""

import pytest

from bench.latency import Delays, matched
from bench.latency_probe import Seen
from bench.producer import Sent
from bench.workload import StuckError


def test_an_event_takes_until_its_key_is_next_seen() -> None:
    sent = [Sent("a", 10, 0), Sent("b", 20, 0), Sent("a", 100, 0)]
    seen = [Seen("b", 25), Seen("a", 30), Seen("a", 130)]
    assert matched(sent, seen) == [20, 5, 30]


def test_a_push_that_could_be_of_two_events_measures_only_the_first() -> None:
    sent = [Sent("a", 10, 0), Sent("a", 20, 0)]
    seen = [Seen("a", 30), Seen("a", 40)]
    assert matched(sent, seen) == [20]


def test_an_event_that_was_never_seen_fails_the_measurement() -> None:
    with pytest.raises(StuckError, match="never seen"):
        matched([Sent("a", 10, 0), Sent("a", 50, 0)], [Seen("a", 30)])


def test_percentiles_are_delays_that_occurred() -> None:
    delays = Delays.of("all", [n * 1_000_000 for n in range(1, 1001)])
    assert (delays.p50_ms, delays.p99_ms, delays.p999_ms, delays.greatest_ms) == (
        501,
        991,
        1000,
        1000,
    )
