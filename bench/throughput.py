"""Everybody side by side: rounds in which each contestant runs once over the same stream."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Final

from bench import chart, machine, measured_run, report, targets
from bench.environment import Environment
from bench.events import Traffic, bodies
from bench.measured_run import MeasuredRun
from bench.progress import Bar
from bench.report import Report
from bench.score import PER_EVENTS, Score, ratio, score
from bench.target import EVERYONE, PER_EVENT_SHARE, TWO_WORKERS, WORKER, Target
from bench.targets import Verdict
from bench.workload import Workload

MB: Final = 1_000_000
_LEGEND: Final = (
    f"client s, server s: CPU seconds for {PER_EVENTS:,} events; RSS: the greatest of one process;"
    f"\nceiling: entries / server CPU seconds; peers per event run on {PER_EVENT_SHARE:.0%} of it."
)
Heats = Mapping[str, Sequence[MeasuredRun]]


def measure(stage: Environment, bar: Bar, *, events: int, runs: int) -> Report:
    """Fill the stream, run the rounds, and report what they gave."""
    found = machine.described(stage)
    course = Workload(stage.client)
    with bar.doing("filling the stream", events) as advance:
        course.fill(bodies(events), advance)
    missing = {c.key: why for c in EVERYONE if (why := c.missing())}
    heats = rounds(stage, bar, course, [c for c in EVERYONE if c.key not in missing], runs)
    scores = {key: score(of) for key, of in heats.items()}
    verdicts = judged(stage, heats, scores)
    figures = {
        "machine": found,
        "events": events,
        "traffic": asdict(Traffic()),
        "missing": missing,
        "scores": {key: asdict(of) for key, of in scores.items()},
        "targets": [{**asdict(outcome), "verdict": outcome.word} for outcome in verdicts],
        "heats": {key: [asdict(one) for one in of] for key, of in heats.items()},
    }
    text = (heading(found, events, runs), _table(scores, missing), "", report.verdicts(verdicts))
    files = {"throughput.json": report.as_json(figures), "throughput.svg": _chart(scores, found)}
    return Report("\n".join(text), files)


def rounds(
    stage: Environment, bar: Bar, course: Workload, contestants: Sequence[Target], runs: int
) -> dict[str, list[MeasuredRun]]:
    """Run each contestant once a round; each round begins with another one."""
    heats: dict[str, list[MeasuredRun]] = {contestant.key: [] for contestant in contestants}
    with bar.doing("running", runs * len(contestants) + 1) as advance:
        # The first to run would pay for the memory that a fresh server still has to ask for.
        measured_run.run(stage, course, WORKER)
        advance(1)
        for number in range(runs):
            first = number % len(contestants)
            for contestant in (*contestants[first:], *contestants[:first]):
                ran = measured_run.run(stage, course, contestant)
                heats[contestant.key].append(ran)
                bar.say(f"{number + 1}: {contestant.title:36}{ran.events_per_s:9,.0f} events/s")
                advance(1)
    return heats


def judged(stage: Environment, heats: Heats, scores: Mapping[str, Score]) -> list[Verdict]:
    """Compare with the targets."""
    titles = {contestant.key: contestant.title for contestant in EVERYONE}
    ratios = [
        Verdict(
            f"our worker : {titles[key]}",
            ratio(heats[WORKER.key], heats[key]) if key in heats else None,
            target,
        )
        for key, target in targets.PEERS.items()
    ]
    shares = [
        Verdict(
            f"{titles[key]} : the server's ceiling",
            scores[key].of_ceiling,
            target,
            remark="both on one core" if key == TWO_WORKERS.key and _is_crowded(stage) else "",
        )
        for key, target in targets.OF_CEILING.items()
    ]
    peak = median(heat.peak_rss_bytes for heat in heats[WORKER.key]) / MB
    rss = Verdict("our worker's peak RSS", peak, targets.RSS_BYTES / MB, " MB", at_most=True)
    return [*ratios, *shares, rss]


def _is_crowded(stage: Environment) -> bool:
    return len(stage.cores.clients) < TWO_WORKERS.processes


def heading(found: Mapping[str, object], events: int, runs: int) -> str:
    """Say what was measured, on what."""
    return (
        f"{events:,} events, medians of {runs} runs, {found['server']},"
        f" {found['processor']}, load at start {found['load_at_start']:.2f}\n"
    )


def _table(scores: Mapping[str, Score], missing: Mapping[str, str]) -> str:
    head = (
        *("", "events/s", "range", "client s", "server s"),
        *("ceiling/s", "of it", "RSS MB"),
    )
    rows = [
        (
            contestant.title,
            f"{of.events_per_s:,.0f}",
            f"{of.slowest_per_s:,.0f}-{of.fastest_per_s:,.0f}",
            f"{of.client_cpu_s:.2f}",
            f"{of.server_cpu_s:.2f}",
            f"{of.ceiling_per_s:,.0f}",
            f"{of.of_ceiling:.2f}",
            f"{of.peak_rss_bytes / MB:.1f}",
        )
        for contestant in EVERYONE
        if (of := scores.get(contestant.key))
    ]
    gaps = [f"{c.title}: missing ({missing[c.key]})" for c in EVERYONE if c.key in missing]
    return "\n".join([report.table(head, rows), *gaps, "", _LEGEND])


def _chart(scores: Mapping[str, Score], found: Mapping[str, object]) -> str:
    bars = [
        chart.Bar(
            contestant.title,
            of.events_per_s,
            of.slowest_per_s,
            of.fastest_per_s,
            is_ours=contestant in (WORKER, TWO_WORKERS),
        )
        for contestant in EVERYONE
        if (of := scores.get(contestant.key))
    ]
    return chart.bars(
        "Events per second",
        f"One server core, one client core; {found['server']}. Medians, with slowest and fastest.",
        bars,
    )
