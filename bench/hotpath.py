"""Where the worker spends its time on the same stream: by call and by sample."""

import json
import pstats
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from bench import machine, measured_run, report
from bench.environment import Environment
from bench.events import bodies
from bench.progress import Bar
from bench.report import Report
from bench.target import WORKER, Target
from bench.workload import Workload

SHOWN: Final = 25
Calls = dict[tuple[str, int, str], tuple[int, int, float, float, object]]
"""As cProfile keeps them: primitive calls, calls, own and cumulative seconds, callers."""

_PLACE: Final = re.compile(r"(?P<file>.*):(?P<line>\d+)\((?P<function>.*)\)")
_PACKAGES: Final = re.compile(r".*/(?:site-packages|python3\.\d+)/")
_OURS: Final = re.compile(r".*/(?=worker/)")


def measure(stage: Environment, bar: Bar, *, events: int) -> Report:
    """Run the worker once without a profiler and once with each; report where time went."""
    found = machine.described(stage)
    course = Workload(stage.client)
    with bar.doing("filling the stream", events) as advance:
        course.fill(bodies(events), advance)
    with tempfile.TemporaryDirectory() as folder, bar.doing("running", 3) as advance:
        calls, samples = Path(folder) / "calls", Path(folder) / "samples"
        lines = [_heading("unprofiled", measured_run.run(stage, course, WORKER), found)]
        advance(1)
        ran = measured_run.run(stage, course, _profiled("samples", samples))
        lines += [_heading("sampled", ran, found), _sampled(samples)]
        advance(1)
        ran = measured_run.run(stage, course, _profiled("calls", calls))
        lines += [_heading("every call", ran, found), _called(calls)]
        advance(1)
    text = "\n".join(lines)
    return Report(text, {"profile.txt": text + "\n"})


def _profiled(under: str, out: Path) -> Target:
    command = (sys.executable, "-m", "bench.profiled", under, str(out))
    return Target(f"profiled-{under}", f"the worker under {under}", command)


def _heading(what: str, ran: measured_run.MeasuredRun, found: dict[str, object]) -> str:
    each_us = ran.client_cpu_s / ran.entries * 1e6
    return (
        f"\n== {what}: {ran.entries:,} events, {ran.events_per_s:,.0f} events/s,"
        f" {each_us:.1f} µs of CPU per event, {found['server']}\n"
    )


def _sampled(path: Path) -> str:
    """Show the functions, then the lines, in which most samples were taken."""
    seen: dict[str, int] = json.loads(path.read_text())
    lines, functions = Counter[str](), Counter[str]()
    for place, samples in seen.items():
        match = _PLACE.fullmatch(place)
        if match:
            file = _short(match["file"])
            functions[f"{file} {match['function']}"] += samples
            lines[f"{file}:{match['line']} {match['function']}"] += samples
    return f"{_shares('own time by function', functions)}\n\n{_shares('by line', lines)}"


def _shares(head: str, counted: Counter[str]) -> str:
    total = counted.total()
    rows = [(place, f"{100 * n / total:.1f} %") for place, n in counted.most_common(SHOWN)]
    return report.table((head, "share"), rows)


def _called(path: Path) -> str:
    """Show the functions that took most CPU time, by cProfile."""
    found: Calls = vars(pstats.Stats(str(path)))["stats"]
    dearest = sorted(found.items(), key=lambda item: -item[1][2])[:SHOWN]
    rows = [
        (
            f"{_short(file)}:{line} {function}" if line else function,
            f"{calls:,}",
            f"{own_s:.3f}",
            f"{with_callees_s:.3f}",
        )
        for (file, line, function), (_, calls, own_s, with_callees_s, _) in dearest
    ]
    return report.table(("every call", "calls", "own s", "with callees s"), rows)


def _short(path: str) -> str:
    return _OURS.sub("", _PACKAGES.sub("", path))
