"""The steps of a batch: prepare (decode, resolve, coalesce), write, settle (bury, acknowledge).

Entries are acknowledged in one place, `BatchProcessor.settle`, once their effect is in the cache,
they are in the dead letters, or their event is one that is not cached.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import structlog

from worker.consumer.batch import Batch, EntryState
from worker.consumer.batch_metrics import BatchMetrics
from worker.consumer.entry_stream import EntryStream
from worker.consumer.instance_resolver import InstanceResolver
from worker.core import bot_contact, chatwoot_event, stream_entry as entries
from worker.core.chatwoot_event import ChatwootEvent, Destination
from worker.core.coalescer import Coalescer, WriteOutcome, WriteResult
from worker.core.documents import Document, Outcome, PendingWrite, encode
from worker.core.stream_entry import DeadEntry, Entry, Envelope
from worker.errors import BindingsChanged, PermissionDenied, UnusableEntry
from worker.ops.logs import LogThrottle
from worker.ops.metrics import Metrics

log = structlog.get_logger()

_HOURLY_S: Final = 3600.0
_GROWTH: Final = 4
_ENVELOPE_BYTES: Final = 4096
"""A document may hold this much besides its payload, whose numbers may grow by `_GROWTH` when they
are written again (1e15): a payload that is small enough by both is not measured."""


_Known = tuple[EntryState, ChatwootEvent, Envelope]
"""An entry whose event was decoded and is one that is cached."""


class DocumentCache(Protocol):
    """Where documents are written: Redis, or memory alone."""

    async def write(self, writes: Sequence[PendingWrite], version: bytes | None, /) -> WriteResult:
        """Write documents and return the outcome of each; raises `BindingsChanged`."""


class BatchProcessor:
    """Gives every entry of a batch its outcome. Each step may be repeated with the same batch."""

    def __init__(
        self,
        stream: EntryStream,
        cache: DocumentCache,
        resolver: InstanceResolver,
        metrics: Metrics,
        *,
        max_document_bytes: int,
    ) -> None:
        self._stream = stream
        self._cache = cache
        self._resolver = resolver
        self._metrics = metrics
        self._batch_metrics = BatchMetrics(metrics)
        self._max_document_bytes = max_document_bytes
        self._refusals = LogThrottle(_HOURLY_S)

    async def prepare(self, batch: Batch) -> None:
        """Decode, resolve and coalesce entries; may run while another batch is written."""
        states = [_decode(entry) for entry in batch.entries if entry.fields]
        known = list(_known(states))
        await self._resolve(known)
        writes = self._coalesce(known)
        # Set together, and only now: an outage in between leaves the batch as it was.
        batch.states, batch.writes = states, writes
        batch.bindings_version = self._resolver.version

    async def write(self, batch: Batch) -> None:
        """Write the documents and give every entry its outcome."""
        started = time.perf_counter()
        while batch.written is None:
            try:
                batch.written = await self._cache.write(batch.writes, batch.bindings_version)
            except BindingsChanged:
                self._resolver.invalidate()
                await self.prepare(batch)
        for state in batch.states:
            if state.outcome is None:
                state.outcome = _outcome(state, batch.written.outcomes)
        batch.write_s = time.perf_counter() - started

    async def settle(self, batch: Batch) -> None:
        """Bury or acknowledge the entries of a written batch; may run while another is written."""
        started = time.perf_counter()
        dead_entries = [
            DeadEntry(state.entry, state.outcome)
            for state in batch.states
            if isinstance(state.outcome, UnusableEntry)
        ]
        if dead_entries:
            await self._bury(dead_entries)
        dead = {dead_entry.entry.id for dead_entry in dead_entries}
        await self._acknowledge([entry.id for entry in batch.entries if entry.id not in dead])
        await self._delete([state.entry.id for state in batch.states if state.discard])
        trimmed = len(batch.entries) - len(batch.states)
        self._metrics.stream_lost_entries.labels(reason="trimmed_pending").inc(trimmed)
        self._batch_metrics.count(batch)
        settle_s = time.perf_counter() - started
        self._metrics.batch_duration_seconds.observe(batch.write_s + settle_s)

    async def bury(self, dead_entry: DeadEntry) -> None:
        """Settle one entry as dead without trying it; one that must not be kept is deleted."""
        if _is_about_bot(dead_entry.entry):
            await self._acknowledge([dead_entry.entry.id])
            await self._delete([dead_entry.entry.id])
            return
        await self._bury([dead_entry])
        self._batch_metrics.count_dead(dead_entry.entry, dead_entry.error)

    def invalidate_bindings(self) -> None:
        """Read the bindings again before the next batch: they may be gone with the group."""
        self._resolver.invalidate()

    async def _resolve(self, known: Sequence[_Known]) -> None:
        events = [(event, envelope) for _, event, envelope in known]
        resolutions = await self._resolver.resolve(events)
        for (state, _, _), resolution in zip(known, resolutions, strict=True):
            if isinstance(resolution, Destination):
                state.destination = resolution
            else:
                state.outcome = resolution or Outcome.IGNORED

    def _coalesce(self, known: Sequence[_Known]) -> Sequence[PendingWrite]:
        coalescer = Coalescer()
        for state, event, envelope in known:
            if state.destination is None:
                continue
            message, conversation = chatwoot_event.build_documents(
                event, envelope, state.destination
            )
            documents = (conversation,) if message is None else (message, conversation)
            if self._is_too_large(envelope, documents):
                limit = self._max_document_bytes
                state.outcome = UnusableEntry("too_large", f"a document would exceed {limit} bytes")
            else:
                state.contributions = tuple(
                    [coalescer.add(document, envelope.ms) for document in documents]
                )
        return coalescer.writes

    def _is_too_large(self, envelope: Envelope, documents: Sequence[Document]) -> bool:
        limit = self._max_document_bytes
        if _GROWTH * len(envelope.payload) + _ENVELOPE_BYTES <= limit:
            return False
        return any(len(encode(document)) > limit for document in documents)

    async def _acknowledge(self, ids: Sequence[bytes]) -> None:
        self._metrics.entries_acked.inc(await self._stream.ack(ids))

    async def _delete(self, ids: Sequence[bytes]) -> None:
        """Delete settled entries that must not be kept; log where that is refused."""
        if not ids:
            return
        try:
            await self._stream.delete(ids)
        except PermissionDenied as error:
            if self._refusals.ready("delete") is not None:
                log.warning(
                    "bot_contact.not_deleted",
                    error=str(error),
                    hint="pairing codes stay on the stream until they are trimmed: give the "
                    "worker's user the rights that `chatwoot-cache acl worker` prints",
                )

    async def _bury(self, dead_entries: Sequence[DeadEntry]) -> None:
        buried = await self._stream.bury(dead_entries)
        self._metrics.entries_acked.inc(buried.acked)
        self._metrics.stream_lost_entries.labels(reason="dead_dropped").inc(buried.dropped)


def _decode(entry: Entry) -> EntryState:
    state = EntryState(entry)
    try:
        state.envelope = entries.read_envelope(entry)
        state.event = chatwoot_event.decode_event(state.envelope.payload)
    except UnusableEntry as error:
        state.outcome = error.detached()
    if state.event is None or state.envelope is None:
        state.outcome = state.outcome or Outcome.IGNORED
        state.discard = _is_about_bot(entry)
    else:
        state.discard = chatwoot_event.is_about_bot(state.event, state.envelope.payload)
    if state.discard:
        state.outcome = Outcome.IGNORED
    return state


def _is_about_bot(entry: Entry) -> bool:
    return bot_contact.is_about_bot(entry.fields.get(b"payload", b""))


def _known(states: Sequence[EntryState]) -> Iterator[_Known]:
    """Yield the entries that have no outcome yet."""
    for state in states:
        if state.outcome is None and state.event is not None and state.envelope is not None:
            yield state, state.event, state.envelope


def _outcome(state: EntryState, outcomes: Sequence[WriteOutcome]) -> Outcome | UnusableEntry:
    """Return the outcome of an entry by those of its documents: the worst counts."""
    outcome = Outcome.STALE
    for contribution in state.contributions:
        written = outcomes[contribution.write]
        if written == "wrong_type":
            return UnusableEntry(
                "wrong_type", "a key of the document holds a value of another type"
            )
        if written == "applied" and contribution.added:
            outcome = Outcome.APPLIED
    return outcome
