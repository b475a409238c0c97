"""Metrics of settled batches."""

import time
from collections import Counter
from collections.abc import Sequence

from worker.consumer.batch import Batch, EntryState
from worker.consumer.dead_letter_log import DeadLetterLog
from worker.core.coalescer import WriteResult
from worker.core.documents import Message, Outcome, PendingWrite
from worker.core.stream_entry import Entry, entry_time_s
from worker.errors import UnusableEntry
from worker.ops.metrics import Metrics


class BatchMetrics:
    """Counts by batch, so that each series is looked up once for all entries that it counts."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._dead_letter_log = DeadLetterLog(metrics)

    def count(self, batch: Batch) -> None:
        """Count a batch that is settled."""
        if batch.written:
            self._count_documents(batch.writes, batch.written)
        self._count_outcomes(batch.states)
        self._count_events(batch.states)
        self._metrics.batch_entries.observe(len(batch.entries))
        self._metrics.last_settled_timestamp_seconds.set(time.time())

    def count_dead(self, entry: Entry, error: UnusableEntry) -> None:
        """Count and log one dead entry."""
        self._metrics.entries_settled.labels(outcome=Outcome.DEAD).inc()
        self._metrics.dead_letters.labels(reason=error.reason).inc()
        self._dead_letter_log.report(entry, error)

    def _count_outcomes(self, states: Sequence[EntryState]) -> None:
        outcomes: dict[Outcome, int] = {}
        ages: list[float] = []
        now = time.time()
        for state in states:
            outcome = state.outcome
            if isinstance(outcome, UnusableEntry):
                self.count_dead(state.entry, outcome)
            elif outcome is not None:
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
                if outcome is Outcome.APPLIED:
                    ages.append(max(0.0, now - entry_time_s(state.entry.id)))
        for outcome, count in outcomes.items():
            self._metrics.entries_settled.labels(outcome=outcome).inc(count)
        self._metrics.entry_age_seconds.observe_all(ages)

    def _count_events(self, states: Sequence[EntryState]) -> None:
        events: dict[tuple[str, str], int] = {}
        for state in states:
            if state.envelope is not None:
                name: str = state.event.name if state.event else ""
                key = (name, state.destination.instance if state.destination else "")
                events[key] = events.get(key, 0) + 1
        for (name, instance), count in events.items():
            self._metrics.count_event(name, instance, count)

    def _count_documents(self, writes: Sequence[PendingWrite], written: WriteResult) -> None:
        self._metrics.write_conflicts.inc(written.conflicts)
        kinds = Counter(
            type(write.document)
            for write, answer in zip(writes, written.outcomes, strict=True)
            if answer == "applied"
        )
        for kind, count in kinds.items():
            name = "message" if kind is Message else "conversation"
            self._metrics.documents_written.labels(kind=name).inc(count)
