"""From an event to its place in the cache, at a steady pace: what a reader has to wait."""

import json
import sys
import tempfile
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from subprocess import Popen
from typing import Final

from bench import machine, measured_run, report, targets
from bench.environment import Environment
from bench.events import Traffic, instance
from bench.latency_probe import Observer, Seen
from bench.process import Process, cpu_s
from bench.producer import Sent
from bench.progress import Advance, Bar
from bench.report import Report
from bench.target import ROOT, WORKER
from bench.targets import Verdict
from bench.workload import StuckError, Workload
from worker.core.cache_keys import CacheKeys

WARM_S: Final = 2
QUIET_S: Final = 2.0
PERCENTILES: Final = (50.0, 99.0, 99.9)
_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Delays:
    """Percentiles in milliseconds of so many delays; and their greatest."""

    what: str
    count: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    greatest_ms: float

    @classmethod
    def of(cls, what: str, delays_ns: Iterable[int]) -> "Delays":
        """Sum up; a percentile is a delay that occurred."""
        rising = sorted(delays_ns)
        p50, p99, p999 = (
            rising[min(len(rising) - 1, int(len(rising) * p / 100))] / _MS for p in PERCENTILES
        )
        return cls(what, len(rising), p50, p99, p999, rising[-1] / _MS)


def measure(stage: Environment, bar: Bar, *, rate: int, seconds: int) -> Report:
    """Send by XADD, then through the webhook; report how long each took."""
    found = machine.described(stage)
    rows = [*run(stage, bar, "xadd", rate, seconds), *run(stage, bar, "http", rate, seconds)]
    verdicts = [
        Verdict(f"p99 {row.what}", row.p99_ms, targets.P99_MS, " ms", at_most=True)
        for row in rows
        if row.what.endswith("readable")
    ]
    figures = {
        "machine": found,
        "rate": rate,
        "seconds": seconds,
        "delays": [asdict(row) for row in rows],
        "targets": [{**asdict(outcome), "verdict": outcome.word} for outcome in verdicts],
    }
    heading = (
        f"{rate:,} events/s for {seconds} s each, {found['server']}, {found['processor']},"
        f" load at start {found['load_at_start']:.2f}\n"
    )
    text = "\n".join((heading, _table(rows), "", report.verdicts(verdicts)))
    return Report(text, {"latency.json": report.as_json(figures)})


def run(stage: Environment, bar: Bar, how: str, rate: int, seconds: int) -> list[Delays]:
    """Start a worker on an empty stream, send at that pace, and match what is seen."""
    prefix, name = f"bench-{time.time_ns()}", "XADD" if how == "xadd" else "POST"
    course = Workload(stage.client)
    course.close_gate()
    keys = CacheKeys(prefix)
    prefixes = [keys.message(instance(n), 0)[:-1] for n in range(Traffic().instances)]
    count = rate * (seconds + WARM_S)
    with (
        measured_run.started(stage, WORKER, prefix) as (worker,),
        Observer(stage.server.uri, prefixes) as observer,
        bar.doing(f"sending by {how}", count) as advance,
    ):
        course.await_waiting(1, worker.check)
        own = Delays.of(f"{name}: the method's own", observer.own_delays_ns())
        before_s, begun = cpu_s(worker.pid), time.monotonic()
        address = stage.server.uri if how == "xadd" else _webhook(worker)
        sent, seen = _watched(observer, (how, address, prefix, str(rate), str(count)), advance)
        busy = (cpu_s(worker.pid) - before_s) / (time.monotonic() - begun)
        worker.check()
    stage.drop(prefix)
    course.clear()
    bar.say(f"{how}: the worker was busy {busy:.0%} of the time")
    steady = sorted(sent, key=lambda one: one.sent_ns)[rate * WARM_S :]
    return [
        own,
        Delays.of(f"{name} to its answer", (one.answered_ns - one.sent_ns for one in steady)),
        Delays.of(f"{name} to readable", matched(steady, seen)),
    ]


def _webhook(worker: Process) -> str:
    """Return the address the worker says it listens on."""
    for line in worker.output.splitlines():
        told = json.loads(line) if line.startswith("{") else {}
        if told.get("event") == "worker.started":
            return str(told["webhook"])
    raise StuckError(f"the worker does not say where its webhook is:\n{worker.output}")


def _watched(
    observer: Observer, arguments: Sequence[str], advance: Advance
) -> tuple[list[Sent], list[Seen]]:
    """Let the producer run and look on, until nothing more is seen for a while after its end."""
    seen: list[Seen] = []
    with tempfile.TemporaryFile() as out:
        command = [sys.executable, "-m", "bench.producer", *arguments]
        with Popen(command, stdout=out, cwd=ROOT) as producer:
            quiet_since = time.monotonic()
            while producer.poll() is None or time.monotonic() < quiet_since + QUIET_S:
                if found := observer.seen():
                    quiet_since = time.monotonic()
                    seen += found
                    advance(len(found))
        out.seek(0)
        sent = [Sent(*one) for one in json.loads(out.read())]
    return sent, seen


def matched(sent: Sequence[Sent], seen: Sequence[Seen]) -> list[int]:
    """Return how long each event took to be readable, in nanoseconds.

    Left out is an event sent while an earlier one of the same message was not yet seen: the push
    could be of either. Raises `StuckError` when an event was never seen.
    """
    times, delays = defaultdict(list), []
    for key, at_ns in seen:
        times[key].append(at_ns)
    last_seen: dict[str, int] = {}
    for key, sent_ns, _ in sorted(sent, key=lambda one: one.sent_ns):
        found = times[key][bisect_left(times[key], sent_ns) :]
        if not found:
            raise StuckError(f"an event of {key} was never seen in the cache")
        if last_seen.get(key, 0) < sent_ns:
            delays.append(found[0] - sent_ns)
        last_seen[key] = found[0]
    return delays


def _table(rows: Sequence[Delays]) -> str:
    head = ("milliseconds", "p50", "p99", "p99.9", "greatest", "events")
    return report.table(
        head,
        [
            (
                row.what,
                *(f"{ms:.2f}" for ms in (row.p50_ms, row.p99_ms, row.p999_ms, row.greatest_ms)),
                f"{row.count:,}",
            )
            for row in rows
        ],
    )
