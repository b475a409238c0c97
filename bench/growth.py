"""How speed and memory grow with what is cached, what waits, and who works."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Final

from bench import chart, machine, measured_run, report, targets
from bench.environment import Environment
from bench.events import FIRST_ID, Traffic, bodies, instance
from bench.measured_run import MeasuredRun
from bench.progress import Bar
from bench.report import Report
from bench.scenarios import AXES, LARGE, SMALL, World
from bench.score import score
from bench.target import WORKER
from bench.targets import Verdict
from bench.workload import PORTION, Workload
from worker.core.cache_keys import CacheKeys

MB: Final = 1_000_000
HELD: Final = "bench-held"
_DOCUMENT: Final = b'{"revision":"%s","content":"%s"}' % (b"0" * 113, b"a" * 700)
"""Of a cached document's usual size; the worker has no reason to read it."""


@dataclass(frozen=True, slots=True)
class Point:
    """What one world gave: medians, the greatest memory of a worker, the server's at the end."""

    axis: str
    world: World
    events_per_s: float
    of_ceiling: float
    worker_rss_bytes: int
    server_memory_bytes: int


class Ground:
    """One server's stream and cache, made into one world after the other."""

    def __init__(self, stage: Environment, bar: Bar) -> None:
        self._stage = stage
        self._bar = bar
        self._course = Workload(stage.client)
        self._filled: tuple[int, Traffic] | None = None
        self._held = 0

    def run(self, world: World, runs: int) -> list[MeasuredRun]:
        """Make that world and let the worker run in it so many times."""
        self._fill(world.backlog, world.traffic)
        self._hold(world.cached)
        contestant = replace(WORKER, processes=world.workers)
        with self._bar.doing(f"running in world {world.label}", runs) as advance:
            heats = []
            for _ in range(runs):
                heats.append(measured_run.run(self._stage, self._course, contestant))
                advance(1)
        return heats

    def _fill(self, backlog: int, traffic: Traffic) -> None:
        if self._filled == (backlog, traffic):
            return
        self._course.clear()
        with self._bar.doing("filling the stream", backlog) as advance:
            self._course.fill(bodies(backlog, traffic), advance)
        self._filled = backlog, traffic

    def _hold(self, cached: int) -> None:
        """Let so many documents be cached, from before the first event."""
        if self._held == cached:
            return
        self._stage.drop(HELD)
        keys = CacheKeys(HELD)
        with self._bar.doing("filling the cache", cached) as advance:
            for first in range(0, cached, PORTION):
                portion = range(first, min(first + PORTION, cached))
                with self._stage.client.pipeline(transaction=False) as pipeline:
                    for n in portion:
                        key = keys.message(instance(n % 20), FIRST_ID - 1 - n)
                        pipeline.set(key, _DOCUMENT, ex=604_800)
                    pipeline.execute()
                advance(len(portion))
        self._held = cached


def measure(stage: Environment, bar: Bar, *, runs: int, scale: float) -> Report:
    """Go through every axis and both extremes; report what they gave."""
    found = machine.described(stage)
    begun = time.monotonic()
    ground = Ground(stage, bar)
    points = []
    for axis, worlds in AXES.items():
        for world in worlds:
            points.append(_point(axis, world.scaled(scale), ground, runs))
            bar.say(f"{axis} {world.label}: {points[-1].events_per_s:,.0f} events/s")
    extremes = _extremes(ground, scale, runs)
    share = extremes[1].events_per_s / extremes[0].events_per_s
    title = "10⁶ cached, 10⁶ waiting, 1,000 instances : 10⁴, 10⁴, 1"
    remark = "" if scale == 1 else f"; all sizes times {scale:g}"
    outcome = Verdict(title, share, targets.AT_SCALE, remark=remark.removeprefix("; "))
    heading = (
        f"medians of {runs} runs, sizes times {scale:g}, {found['server']}, {found['processor']},"
        f" load at start {found['load_at_start']:.2f}, {time.monotonic() - begun:.0f} s\n"
    )
    figures = {
        "machine": found,
        "scale": scale,
        "points": [asdict(point) for point in (*points, *extremes)],
        "targets": [{**asdict(outcome), "verdict": outcome.word}],
    }
    files = {
        "growth.json": report.as_json(figures),
        "growth.svg": _chart("Events per second", points, _speed, remark),
        "growth-memory.svg": _chart("Memory of the server, MB", points, _memory, remark),
    }
    text = (heading, _table([*points, *extremes]), "", report.verdicts([outcome]))
    return Report("\n".join(text), files)


def _extremes(ground: Ground, scale: float, runs: int) -> tuple[Point, Point]:
    """Run in the small world, the large one, and the small one again, as machines drift."""
    small, large = SMALL.scaled(scale), LARGE.scaled(scale)
    before = ground.run(small, runs)
    at_large = ground.run(large, runs)
    after = ground.run(small, runs)
    return _summed("extremes", small, [*before, *after]), _summed("extremes", large, at_large)


def _point(axis: str, world: World, ground: Ground, runs: int) -> Point:
    return _summed(axis, world, ground.run(world, runs))


def _summed(axis: str, world: World, heats: Sequence[MeasuredRun]) -> Point:
    of = score(heats)
    return Point(
        axis=axis,
        world=world,
        events_per_s=of.events_per_s,
        of_ceiling=of.of_ceiling,
        worker_rss_bytes=of.peak_rss_bytes,
        server_memory_bytes=int(median(one.server_memory_bytes for one in heats)),
    )


def _table(points: Sequence[Point]) -> str:
    head = (
        *("", "", "cached", "waiting", "workers"),
        *("events/s", "of ceiling", "worker MB", "server MB"),
    )
    rows = [
        (
            point.axis if before is None or before.axis != point.axis else "",
            point.world.label,
            f"{point.world.cached:,}",
            f"{point.world.backlog:,}",
            str(point.world.workers),
            f"{point.events_per_s:,.0f}",
            f"{point.of_ceiling:.2f}",
            f"{point.worker_rss_bytes / MB:.1f}",
            f"{point.server_memory_bytes / MB:,.0f}",
        )
        for before, point in zip((None, *points), points, strict=False)
    ]
    return report.table(head, rows)


def _speed(point: Point) -> float:
    return point.events_per_s


def _memory(point: Point) -> float:
    return point.server_memory_bytes / MB


def _chart(
    title: str, points: Sequence[Point], value: Callable[[Point], float], remark: str
) -> str:
    panels = []
    for axis in AXES:
        of = [point for point in points if point.axis == axis]
        panels.append(chart.Panel(axis, [p.world.label for p in of], [value(p) for p in of]))
    subtitle = "One thing grown at a time; of the rest, 10⁴ documents are cached, 10⁵ events wait"
    return chart.panels(title, subtitle + remark, panels)
