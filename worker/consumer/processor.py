"""One batch, from entries to outcomes: decode, resolve, fold, write, then bury or ack.

An outcome is a value. Entries are acknowledged in one place, `Settler.close`,
and only once their effect is in the cache, or in the dead letters, or nowhere on purpose.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import structlog

from worker.consumer.batch import Batch, EntryState
from worker.consumer.batch_metrics import BatchMetrics
from worker.consumer.instance_resolver import InstanceResolver
from worker.core import bot_contact, chatwoot_event, stream_entry as entries
from worker.core.chatwoot_event import ChatwootEvent, Destination
from worker.core.coalescer import Coalescer, WriteOutcome, WriteResult
from worker.core.documents import Document, Outcome, PendingWrite, encode
from worker.core.stream_entry import BuryResult, DeadEntry, Entry, Envelope
from worker.errors import BindingsChanged, PermissionRefused, UnusableEntry
from worker.ops.logs import LogThrottle
from worker.ops.metrics import Metrics

log = structlog.get_logger()

_HOURLY_S: Final = 3600.0
_GROWTH: Final = 4
_ENVELOPE_BYTES: Final = 4096
"""What a document may hold beyond its payload, whose numbers may grow as they are written anew
(1e15): a payload small enough by both need not be measured."""


_Known = tuple[EntryState, ChatwootEvent, Envelope]
"""A case whose event was decoded, and is one that we cache."""


class Acknowledger(Protocol):
    """Where entries are settled."""

    async def ack(self, ids: Sequence[bytes]) -> int:
        """Acknowledge entries; returns how many were pending."""

    async def bury(self, letters: Sequence[DeadEntry]) -> BuryResult:
        """Move entries to the dead letters, which acknowledges them."""

    async def delete(self, ids: Sequence[bytes]) -> None:
        """Delete entries from the stream; raises `PermissionRefused` where that is not allowed."""


class DocumentCache(Protocol):
    """Where documents are written."""

    async def write(self, drafts: Sequence[PendingWrite], version: bytes | None) -> WriteResult:
        """Write drafts, and say what became of each; raises `BindingsChanged`."""


class BatchProcessor:
    """Gives every entry of a batch its outcome."""

    def __init__(
        self,
        stream: Acknowledger,
        cache: DocumentCache,
        directory: InstanceResolver,
        metrics: Metrics,
        *,
        max_document_bytes: int,
    ) -> None:
        self._stream = stream
        self._cache = cache
        self._directory = directory
        self._metrics = metrics
        self._tally = BatchMetrics(metrics)
        self._max_document_bytes = max_document_bytes
        self._refusals = LogThrottle(_HOURLY_S)

    async def prepare(self, entries: Sequence[Entry]) -> Batch:
        """Decode, resolve and fold entries, which may take place while others are written."""
        cases = [_open(entry) for entry in entries if entry.fields]
        known = list(_known(cases))
        await self._resolve(known)
        return Batch(entries, cases, self._fold(known).writes, self._directory.version)

    async def settle(self, batch: Batch) -> bool:
        """Settle all entries of a batch: write, then close."""
        return await self.write(batch) and await self.close(batch)

    async def write(self, batch: Batch) -> bool:
        """Give every entry its outcome, with its effect in the cache.

        May be called again with the same batch: every step is idempotent.
        """
        started = time.perf_counter()
        while batch.written is None:
            try:
                batch.written = await self._cache.write(batch.drafts, batch.version)
            except BindingsChanged:
                self._directory.invalidate()
                anew = await self.prepare(batch.entries)
                batch.cases, batch.drafts, batch.version = anew.cases, anew.drafts, anew.version
        for case in batch.cases:
            if case.outcome is None:
                case.outcome = _verdict(case, batch.written.outcomes)
        batch.took_s = time.perf_counter() - started
        return True

    async def close(self, batch: Batch) -> bool:
        """Bury or acknowledge what was written, or raise and leave it pending.

        May take place while others are written, and be called again with the same batch.
        """
        started = time.perf_counter()
        await self._close(batch)
        self._tally.count(batch)
        took_s = batch.took_s + time.perf_counter() - started
        self._metrics.batch_duration_seconds.observe(took_s)
        return True

    async def bury(self, letter: DeadEntry) -> None:
        """Settle one entry as dead, without trying it; one that must not be kept is deleted."""
        if _is_about_bot(letter.entry):
            await self._acknowledge([letter.entry.id])
            await self._delete([letter.entry.id])
            return
        await self._bury([letter])
        self._tally.count_dead(letter.entry, letter.error)

    def invalidate_bindings(self) -> None:
        """Read the bindings anew before the next batch: what took the group may have taken them."""
        self._directory.invalidate()

    async def _resolve(self, known: Sequence[_Known]) -> None:
        answers = await self._directory.resolve([(event, said) for _, event, said in known])
        for (case, _, _), answer in zip(known, answers, strict=True):
            if isinstance(answer, Destination):
                case.address = answer
            else:
                case.outcome = answer or Outcome.IGNORED

    def _fold(self, known: Sequence[_Known]) -> Coalescer:
        fold = Coalescer()
        for case, event, said in known:
            if case.address is None:
                continue
            message, conversation = chatwoot_event.build_documents(event, said, case.address)
            documents = (conversation,) if message is None else (message, conversation)
            if self._too_large(said, documents):
                limit = self._max_document_bytes
                case.outcome = UnusableEntry("too_large", f"a document would exceed {limit} bytes")
            else:
                case.parts = tuple([fold.add(document, said.ms) for document in documents])
        return fold

    def _too_large(self, said: Envelope, documents: Sequence[Document]) -> bool:
        limit = self._max_document_bytes
        if _GROWTH * len(said.payload) + _ENVELOPE_BYTES <= limit:
            return False
        return any(len(encode(document)) > limit for document in documents)

    async def _close(self, batch: Batch) -> None:
        """Bury what is dead, and acknowledge the rest."""
        cases = batch.cases
        letters = [
            DeadEntry(c.entry, c.outcome) for c in cases if isinstance(c.outcome, UnusableEntry)
        ]
        if letters:
            await self._bury(letters)
        dead = {letter.entry.id for letter in letters}
        await self._acknowledge([e.id for e in batch.entries if e.id not in dead])
        await self._delete([case.entry.id for case in cases if case.discard])
        trimmed = len(batch.entries) - len(cases)
        self._metrics.stream_lost_entries.labels(reason="trimmed_pending").inc(trimmed)

    async def _acknowledge(self, ids: Sequence[bytes]) -> None:
        self._metrics.entries_acked.inc(await self._stream.ack(ids))

    async def _delete(self, ids: Sequence[bytes]) -> None:
        """Delete settled entries that must not be kept; where that is refused, say so."""
        if not ids:
            return
        try:
            await self._stream.delete(ids)
        except PermissionRefused as error:
            if self._refusals.ready("delete") is not None:
                log.warning(
                    "bot_contact.not_deleted",
                    error=str(error),
                    hint="pairing codes stay on the stream until they are trimmed: give the "
                    "worker's user the rights that `chatwoot-cache acl worker` prints",
                )

    async def _bury(self, letters: Sequence[DeadEntry]) -> None:
        buried = await self._stream.bury(letters)
        self._metrics.entries_acked.inc(buried.acked)
        self._metrics.stream_lost_entries.labels(reason="dead_dropped").inc(buried.dropped)


def _open(entry: Entry) -> EntryState:
    """Decode one entry."""
    case = EntryState(entry)
    if _is_about_bot(entry):
        case.outcome, case.discard = Outcome.IGNORED, True
        return case
    try:
        case.said = entries.read_envelope(entry)
        case.event = chatwoot_event.decode_event(case.said.payload)
    except UnusableEntry as error:
        case.outcome = error.detached()
        return case
    if case.event is None:
        case.outcome = Outcome.IGNORED
    return case


def _is_about_bot(entry: Entry) -> bool:
    return bot_contact.is_about_bot(entry.fields.get(b"payload", b""))


def _known(cases: Sequence[EntryState]) -> Iterator[_Known]:
    """Yield the cases that have no verdict yet."""
    for case in cases:
        if case.outcome is None and case.event is not None and case.said is not None:
            yield case, case.event, case.said


def _verdict(case: EntryState, answers: Sequence[WriteOutcome]) -> Outcome | UnusableEntry:
    """Settle a case by what became of its documents: the worst counts."""
    outcome = Outcome.STALE
    for part in case.parts:
        answer = answers[part.write]
        if answer == "wrong_type":
            return UnusableEntry(
                "wrong_type", "a key of the document holds a value of another type"
            )
        if answer == "applied" and part.added:
            outcome = Outcome.APPLIED
    return outcome
