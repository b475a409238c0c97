"""From heats to figures: medians of a contestant, and ratios of pairs that ran side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.measured_run import MeasuredRun

PER_EVENTS = 100_000
"""CPU seconds are stated for so many events, whatever part of the stream was run."""


@dataclass(frozen=True, slots=True)
class Score:
    """Medians over a contestant's heats; CPU seconds are for 100,000 events."""

    runs: int
    entries: int
    events_per_s: float
    slowest_per_s: float
    fastest_per_s: float
    client_cpu_s: float
    server_cpu_s: float
    ceiling_per_s: float
    of_ceiling: float
    peak_rss_bytes: int


def score(heats: Sequence[MeasuredRun]) -> Score:
    """Sum up the heats of one contestant."""
    speeds = [heat.events_per_s for heat in heats]
    return Score(
        runs=len(heats),
        entries=heats[0].entries,
        events_per_s=median(speeds),
        slowest_per_s=min(speeds),
        fastest_per_s=max(speeds),
        client_cpu_s=median(h.client_cpu_s / h.entries for h in heats) * PER_EVENTS,
        server_cpu_s=median(h.server_cpu_s / h.entries for h in heats) * PER_EVENTS,
        ceiling_per_s=median(heat.ceiling_per_s for heat in heats),
        of_ceiling=median(heat.events_per_s / heat.ceiling_per_s for heat in heats),
        peak_rss_bytes=max(heat.peak_rss_bytes for heat in heats),
    )


def ratio(ours: Sequence[MeasuredRun], theirs: Sequence[MeasuredRun]) -> float:
    """Return how many times as fast ours are: the median over the rounds both ran in."""
    return median(a.events_per_s / b.events_per_s for a, b in zip(ours, theirs, strict=True))
