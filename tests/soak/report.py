"""How a run went, as a table."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from rich.table import Table

from tests.soak.events import Verdict
from tests.soak.gauges import Gauges
from tests.soak.plan import Plan
from tests.soak.posting import Posting

_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Run:
    """One run and what came of it."""

    plan: Plan
    server: str
    posting: Posting
    worker_kills: int
    gauges: Gauges
    outcome: Verdict
    settled_s: float
    failures: Counter[str]
    ended: Counter[str]
    counted_lost: int

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, nor said to be, and every worker lived until it was killed."""
        return self.outcome.is_good and not self.ended and self.counted_lost == 0


def table(run: Run) -> Table:
    """Every figure of a run."""
    proxy = ", through a proxy that delays and cuts" if run.plan.proxy else ""
    spool = ", with a spool" if run.plan.spool else ""
    title = f"{run.server}, append-only, fsync {run.plan.fsync}{proxy}{spool}"
    shown = Table(title=title, show_header=False)
    for name, text in {**_posted(run), **_judged(run), **_flat(run)}.items():
        shown.add_row(name, text)
    return shown


def _posted(run: Run) -> dict[str, str]:
    answers = run.posting.answers
    others = sorted((what, n) for what, n in answers.items() if what != "200")
    return {
        "events posted": f"{run.posting.posted:,} in {run.plan.seconds:.0f} s",
        "answered 200": f"{answers['200']:,}",
        "not taken": ", ".join(f"{n:,} {what}" for what, n in others) or "0",
        "workers killed": f"{run.worker_kills}",
        "server killed": f"{run.plan.server_kills}",
    }


def _judged(run: Run) -> dict[str, str]:
    outcome = run.outcome
    return {
        "lost": f"{len(outcome.lost)}",
        "counted as lost by the workers": f"{run.counted_lost}",
        "older than what was answered 200": f"{len(outcome.outdated)}",
        "under another instance": f"{len(outcome.mixed)}",
        "dead letters": f"{outcome.dead}, {outcome.dead_twice} of them twice",
        "settled": f"{run.settled_s:.1f} s after the last answer",
    }


def _flat(run: Run) -> dict[str, str]:
    rss, lengths = run.gauges.rss, run.gauges.lengths
    early, late = rss[len(rss) // 4] / _MIB, rss[-1] / _MIB
    return {
        "memory of the worker left alone": f"{early:.0f} MiB early, {late:.0f} MiB at the end",
        "entries in the stream": f"{max(lengths):,} at most, {lengths[-1]:,} at the end",
        "logged as errors": _lines(run.failures),
        "ended by themselves": _lines(run.ended),
    }


def _lines(counted: Counter[str]) -> str:
    return "\n".join(f"{n} {what}" for what, n in counted.items()) or "none"
