"""One batch, from entries to outcomes: decode, resolve, fold, write, then bury or ack.

An outcome is a value. Entries are acknowledged in one place, at the end of `Settler.settle`,
and only once their effect is in the cache, or in the dead letters, or nowhere on purpose.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from worker.core import chatwoot, entry as entries
from worker.core.chatwoot import Address, Event
from worker.core.entry import Buried, Entry, Letter, Statement
from worker.core.fold import Answer, Fold, Part, Written
from worker.core.model import Document, Draft, Message, Outcome, encode, worst
from worker.errors import Outdated, Unusable
from worker.metrics import Metrics
from worker.pipeline.burials import BurialLog
from worker.pipeline.directory import Directory

_GROWTH: Final = 4
_ENVELOPE_BYTES: Final = 4096
"""What a document may hold beyond its payload, whose numbers may grow as they are written anew
(1e15): a payload small enough by both need not be measured."""


class Acknowledger(Protocol):
    """Where entries are settled."""

    async def ack(self, ids: Sequence[bytes]) -> int:
        """Acknowledge entries; returns how many were pending."""

    async def bury(self, letters: Sequence[Letter]) -> Buried:
        """Move entries to the dead letters, which acknowledges them."""


class DocumentCache(Protocol):
    """Where documents are written."""

    async def write(self, drafts: Sequence[Draft], version: bytes | None) -> Written:
        """Write drafts, and say what became of each; raises `Outdated`."""


@dataclass(slots=True)
class _Case:
    """An entry on its way to its outcome; `verdict` is set once that is known."""

    entry: Entry
    said: Statement | None = None
    event: Event | None = None
    address: Address | None = None
    parts: tuple[Part, ...] = ()
    verdict: Outcome | Unusable | None = None


@dataclass(slots=True)
class Batch:
    """Entries on their way to their outcomes; `written` is set once the cache has them.

    `version` is that of the bindings that they were resolved by.

    Opaque to all but the settler.
    """

    entries: Sequence[Entry]
    cases: Sequence[_Case]
    drafts: Sequence[Draft]
    version: bytes | None = None
    written: Written | None = None


class Settler:
    """Gives every entry of a batch its outcome."""

    def __init__(
        self,
        stream: Acknowledger,
        cache: DocumentCache,
        directory: Directory,
        metrics: Metrics,
        *,
        max_document_bytes: int,
    ) -> None:
        self._stream = stream
        self._cache = cache
        self._directory = directory
        self._metrics = metrics
        self._max_document_bytes = max_document_bytes
        self._burials = BurialLog(metrics)

    async def prepare(self, entries: Sequence[Entry]) -> Batch:
        """Decode, resolve and fold entries, which may take place while others are written."""
        cases = [_open(entry) for entry in entries if entry.fields]
        await self._resolve(cases)
        return Batch(entries, cases, self._fold(cases).drafts, self._directory.version)

    async def settle(self, batch: Batch) -> bool:
        """Settle all entries of a batch, or raise and leave all that is not acknowledged pending.

        May be called again with the same batch: every step is idempotent.
        """
        started = time.perf_counter()
        while batch.written is None:
            try:
                batch.written = await self._cache.write(batch.drafts, batch.version)
            except Outdated:
                self._directory.distrust()
                anew = await self.prepare(batch.entries)
                batch.cases, batch.drafts, batch.version = anew.cases, anew.drafts, anew.version
        for case in batch.cases:
            _conclude(case, batch.written.answers)

        await self._close(batch)
        self._count(batch, batch.written)
        self._metrics.batch_entries.observe(len(batch.entries))
        self._metrics.batch_duration_seconds.observe(time.perf_counter() - started)
        return True

    async def _resolve(self, cases: Sequence[_Case]) -> None:
        known = list(_open_cases(cases))
        answers = await self._directory.resolve([(event, said) for _, event, said in known])
        for (case, _, _), answer in zip(known, answers, strict=True):
            if isinstance(answer, Address):
                case.address = answer
            else:
                case.verdict = answer or Outcome.IGNORED

    def _fold(self, cases: Sequence[_Case]) -> Fold:
        fold = Fold()
        for case, event, said in _open_cases(cases):
            if case.address is None:
                continue
            documents = [d for d in chatwoot.documents(event, said, case.address) if d is not None]
            if self._too_large(said, documents):
                limit = self._max_document_bytes
                case.verdict = Unusable("too_large", f"a document would exceed {limit} bytes")
            else:
                case.parts = tuple(fold.add(document, said.ms) for document in documents)
        return fold

    def _too_large(self, said: Statement, documents: Sequence[Document]) -> bool:
        limit = self._max_document_bytes
        if _GROWTH * len(said.payload) + _ENVELOPE_BYTES <= limit:
            return False
        return any(len(encode(document)) > limit for document in documents)

    async def _close(self, batch: Batch) -> None:
        """Bury what is dead, and acknowledge the rest."""
        cases = batch.cases
        letters = [Letter(c.entry, c.verdict) for c in cases if isinstance(c.verdict, Unusable)]
        if letters:
            await self._bury(letters)
        dead = {letter.entry.id for letter in letters}
        acked = await self._stream.ack([e.id for e in batch.entries if e.id not in dead])
        self._metrics.entries_acked.inc(acked)
        trimmed = len(batch.entries) - len(cases)
        self._metrics.stream_lost_entries.labels(reason="trimmed_pending").inc(trimmed)

    def distrust_bindings(self) -> None:
        """Read the bindings anew before the next batch: what took the group may have taken them."""
        self._directory.distrust()

    async def bury(self, letter: Letter) -> None:
        """Settle one entry as dead, without trying it."""
        await self._bury([letter])
        self._count_dead(letter.entry, letter.error)

    async def _bury(self, letters: Sequence[Letter]) -> None:
        buried = await self._stream.bury(letters)
        self._metrics.entries_acked.inc(buried.acked)
        self._metrics.stream_lost_entries.labels(reason="dead_dropped").inc(buried.dropped)

    def _count(self, batch: Batch, written: Written) -> None:
        """Count a batch, once, when all of it is settled."""
        self._count_documents(batch.drafts, written)
        events: Counter[tuple[str, str]] = Counter()
        for case in batch.cases:
            if isinstance(case.verdict, Unusable):
                self._count_dead(case.entry, case.verdict)
            elif case.verdict is not None:
                self._count_settled(case.entry, case.verdict)
            if case.said is not None:
                events[_labels(case)] += 1
        for (name, instance), count in events.items():
            self._metrics.count_event(name, instance, count)
        self._metrics.last_settled_timestamp_seconds.set(time.time())

    def _count_settled(self, entry: Entry, outcome: Outcome) -> None:
        self._metrics.entries_settled.labels(outcome=outcome).inc()
        if outcome is Outcome.APPLIED:
            age_s = time.time() - entries.time_s(entry.id)
            self._metrics.entry_age_seconds.observe(max(0.0, age_s))

    def _count_dead(self, entry: Entry, error: Unusable) -> None:
        self._metrics.entries_settled.labels(outcome=Outcome.DEAD).inc()
        self._metrics.dead_letters.labels(reason=error.reason).inc()
        self._burials.report(entry, error)

    def _count_documents(self, drafts: Sequence[Draft], written: Written) -> None:
        self._metrics.write_conflicts.inc(written.conflicts)
        for draft, answer in zip(drafts, written.answers, strict=True):
            if answer == "applied":
                kind = "message" if isinstance(draft.document, Message) else "conversation"
                self._metrics.documents_written.labels(kind=kind).inc()


def _labels(case: _Case) -> tuple[str, str]:
    name = case.event.name if case.event else ""
    return name, case.address.instance if case.address else ""


def _open(entry: Entry) -> _Case:
    """Decode one entry."""
    case = _Case(entry)
    try:
        case.said = entries.read(entry)
        case.event = chatwoot.decode(case.said.payload)
    except Unusable as error:
        case.verdict = error.detached()
        return case
    if case.event is None or chatwoot.is_bot(case.event):
        case.verdict = Outcome.IGNORED
    return case


def _open_cases(cases: Sequence[_Case]) -> Iterator[tuple[_Case, Event, Statement]]:
    """Yield the cases that have no verdict yet."""
    for case in cases:
        if case.verdict is None and case.event is not None and case.said is not None:
            yield case, case.event, case.said


def _conclude(case: _Case, answers: Sequence[Answer]) -> None:
    """Settle a case by what became of its documents."""
    if case.verdict is not None:
        return
    if any(answers[part.draft] == "wrong_type" for part in case.parts):
        case.verdict = Unusable("wrong_type", "a key of the document holds a value of another type")
        return
    case.verdict = worst(
        [
            Outcome.APPLIED if part.added and answers[part.draft] == "applied" else Outcome.STALE
            for part in case.parts
        ]
    )
