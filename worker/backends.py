"""Where documents are: in Redis, with memory in front of it or without, or in memory alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from worker.consumer.instance_resolver import BindingTable
from worker.consumer.loop import Book, EntryStream
from worker.consumer.loss_counter import LossCounter
from worker.consumer.processor import DocumentCache
from worker.core.cache_keys import CacheKeys
from worker.core.stream_keys import StreamKeys
from worker.maintenance.tasks import MaintenanceDeps
from worker.ops.health import Pingable
from worker.ops.metrics import Metrics
from worker.settings import RedisUri, Settings
from worker.store.admin.bot_contact_purge import BotPurge
from worker.store.cache import binding_table
from worker.store.cache.document_reader import DocumentReader, redis_reader
from worker.store.cache.document_writer import CacheSettings, DocumentWriter
from worker.store.cache.keyspace import Keyspace
from worker.store.cache.local_cache import LocalCache
from worker.store.cache.memory_bindings import MemoryBindings
from worker.store.cache.memory_documents import MemoryDocuments
from worker.store.cache.tracking import Tracking
from worker.store.client import Client
from worker.store.stream.groupless import GrouplessStream, NullGroup
from worker.store.stream.lease import Lease
from worker.store.stream.stream_reader import StreamReader, StreamSettings
from worker.store.stream.trimmer import Trimmer


class ClientFactory(Protocol):
    """Makes a client that is closed at the end."""

    def __call__(self, uri: RedisUri, *, block_s: float = 0.0) -> Client:
        """Return a client of its own."""


@dataclass(frozen=True, slots=True)
class EntrySource:
    """What is consumed, and what is looked after beside it."""

    stream: EntryStream
    ledger: Book
    charges: MaintenanceDeps


@dataclass(frozen=True, slots=True)
class Backends:
    """What reads and writes documents; `ready` are those without whom nothing can be read."""

    source: Callable[[], EntrySource]
    cache: DocumentCache
    table: BindingTable
    reader: DocumentReader
    ready: Sequence[Pingable] = ()
    bot_purge: BotPurge | None = None
    tracking: Tracking | None = None


def build(settings: Settings, connect: ClientFactory, metrics: Metrics) -> Backends:
    """Build what the settings say; nothing connects yet."""
    return (
        _in_memory(settings, connect, metrics)
        if settings.local_only
        else _in_redis(settings, connect, metrics)
    )


def _in_redis(settings: Settings, connect: ClientFactory, metrics: Metrics) -> Backends:
    of = CacheSettings(
        prefix=settings.cache_redis_prefix_key,
        ttl_s=settings.cache_redis_ttl,
        conversation_messages=settings.conversation_messages,
    )
    client = connect(settings.cache_uri)
    local = tracking = None
    if settings.cache_local_enabled and settings.reads_enabled:
        local = LocalCache(settings.local_max_bytes, settings.cache_local_ttl)
        tracking = Tracking(connect(settings.cache_uri), CacheKeys(of.prefix).root, local)
        metrics.local_cache_entries.set_function(local.__len__)
    return Backends(
        source=lambda: _group(settings, connect, metrics),
        cache=DocumentWriter(client, of),
        table=binding_table.BindingTable(client, of),
        # On a client of its own: readers do not wait behind a batch, nor writers behind them.
        reader=redis_reader(connect(settings.cache_uri), of.prefix, local),
        tracking=tracking,
        bot_purge=BotPurge(
            binding_table.BindingTable(client, of),
            Keyspace(client, of.prefix),
            connect(settings.stream_uri),
            settings.stream_key,
            settings.stream_group,
        ),
    )


def _group(settings: Settings, connect: ClientFactory, metrics: Metrics) -> EntrySource:
    key, group = settings.stream_key, settings.stream_group
    client = connect(settings.stream_uri)
    stream = StreamReader(
        connect(settings.stream_uri, block_s=settings.stream_block_s),
        connect(settings.stream_uri),
        StreamSettings(
            key=key,
            group=group,
            consumer=settings.consumer_name,
            batch_size=settings.stream_batch_size,
            block_s=settings.stream_block_s,
            dead_max_entries=settings.dead_max_entries,
            dead_retention_s=settings.dead_retention_s,
        ),
    )
    trimmer = Trimmer(
        client,
        key,
        group,
        retention_s=settings.stream_retention_s,
        max_entries=settings.stream_max_entries,
    )
    ledger = LossCounter(stream.group, metrics)
    lease = Lease(client, StreamKeys(key, group).lease("upkeep"))
    charges = MaintenanceDeps(stream.group, ledger, trimmer, stream.letters, lease, stream)
    return EntrySource(stream, ledger, charges)


def _in_memory(settings: Settings, connect: ClientFactory, metrics: Metrics) -> Backends:
    of = CacheSettings(
        prefix=settings.cache_redis_prefix_key,
        ttl_s=math.ceil(settings.cache_local_ttl),
        conversation_messages=settings.conversation_messages,
    )
    client = connect(settings.stream_uri)
    onlooker = NullGroup(client, settings.stream_key)
    charges = MaintenanceDeps(onlooker, onlooker, onlooker, onlooker, onlooker, onlooker)
    stream = GrouplessStream(
        connect(settings.stream_uri, block_s=settings.stream_block_s),
        client,
        settings.stream_key,
        batch_size=settings.stream_batch_size,
        block_s=settings.stream_block_s,
        since_s=settings.cache_local_ttl,
    )
    table = MemoryBindings()
    memory = MemoryDocuments(
        of,
        settings.local_max_bytes,
        accounts=table.accounts,
        is_whole=lambda: stream.is_caught_up,
    )
    metrics.local_cache_entries.set_function(memory.__len__)
    return Backends(
        source=lambda: EntrySource(stream, onlooker, charges),
        cache=memory,
        table=table,
        reader=DocumentReader(memory, of.prefix),
        ready=(memory,),
    )
