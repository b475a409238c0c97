"""Builds where documents are kept: in Redis, with or without local memory, or in memory alone."""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from worker.consumer.entry_stream import EntryStream
from worker.consumer.instance_resolver import BindingStore
from worker.consumer.processor import DocumentCache
from worker.core.cache_keys import CacheKeys
from worker.core.stream_keys import StreamKeys
from worker.maintenance import FAST_S, SLOW_S
from worker.maintenance.dead_letter_retention import drop_old_dead_letters
from worker.maintenance.group_metrics import GroupMetricsUpdate
from worker.maintenance.retire_consumers import retire_consumers
from worker.maintenance.server_info_metric import update_server_info
from worker.maintenance.trim import StreamTrimming
from worker.ops.health import Pingable
from worker.ops.metrics import Metrics
from worker.settings import RedisUri, Settings
from worker.store.admin.bot_contact_purge import BotContactPurge
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_reader import DocumentReader, redis_reader
from worker.store.cache.document_writer import CacheSettings, DocumentWriter
from worker.store.cache.invalidation_listener import InvalidationListener
from worker.store.cache.keyspace import Keyspace
from worker.store.cache.local_cache import LocalCache
from worker.store.cache.memory_bindings import MemoryBindings
from worker.store.cache.memory_documents import MemoryDocuments
from worker.store.client import Client
from worker.store.stream.lease import Lease
from worker.store.stream.stream_reader import StreamReader
from worker.store.stream.stream_settings import StreamSettings
from worker.store.stream.trimmer import Trimmer
from worker.store.stream.ungrouped_reader import UngroupedStreamReader


class ClientFactory(Protocol):
    """Creates clients and closes them at shutdown."""

    def __call__(self, uri: RedisUri, *, block_s: float = 0.0) -> Client:
        """Return a new client."""


PeriodicTask = tuple[float, Callable[[], Awaitable[None]]]
"""A period in seconds, and what runs in it."""


@dataclass(frozen=True, slots=True)
class EntrySource:
    """The stream to consume, and its maintenance."""

    stream: EntryStream
    maintenance: Sequence[PeriodicTask]


@dataclass(frozen=True, slots=True)
class Backends:
    """What reads and writes documents; without those in `ready` nothing can be read."""

    source: Callable[[], EntrySource]
    cache: DocumentCache
    bindings: BindingStore
    reader: DocumentReader
    ready: Sequence[Pingable] = ()
    bot_purge: BotContactPurge | None = None
    tracking: InvalidationListener | None = None


def build(settings: Settings, connect: ClientFactory, metrics: Metrics) -> Backends:
    """Build the backends that the settings choose, without connecting."""
    return (
        _in_memory(settings, connect, metrics)
        if settings.local_only
        else _in_redis(settings, connect, metrics)
    )


def _in_redis(settings: Settings, connect: ClientFactory, metrics: Metrics) -> Backends:
    cache_settings = CacheSettings(
        prefix=settings.cache_redis_prefix_key,
        ttl_s=settings.cache_redis_ttl,
        conversation_messages=settings.conversation_messages,
    )
    client = connect(settings.cache_uri)
    local = tracking = None
    if settings.cache_local_enabled and settings.reads_enabled:
        local = LocalCache(settings.local_max_bytes, settings.cache_local_ttl)
        tracking = InvalidationListener(
            connect(settings.cache_uri), CacheKeys(cache_settings.prefix).root, local
        )
        metrics.local_cache_entries.set_function(local.__len__)
    return Backends(
        source=lambda: _group_source(settings, connect, metrics),
        cache=DocumentWriter(client, cache_settings),
        bindings=BindingTable(client, cache_settings),
        # With its own client: reads do not wait behind a batch, nor writes behind reads.
        reader=redis_reader(
            connect(settings.cache_uri), cache_settings.prefix, local, settings.origin_rules
        ),
        tracking=tracking,
        bot_purge=BotContactPurge(
            BindingTable(client, cache_settings),
            Keyspace(client, cache_settings.prefix),
            connect(settings.stream_uri),
            settings.stream_key,
            settings.stream_group,
        ),
    )


def _group_source(settings: Settings, connect: ClientFactory, metrics: Metrics) -> EntrySource:
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
    lease = Lease(client, StreamKeys(key, group).lease("upkeep"))
    maintenance: list[PeriodicTask] = [
        (FAST_S, GroupMetricsUpdate(stream.group, metrics).run),
        (FAST_S, StreamTrimming(trimmer, lease, metrics).run),
        (SLOW_S, partial(retire_consumers, stream.group, lease)),
        (SLOW_S, partial(drop_old_dead_letters, stream.dead_letters, metrics)),
        (SLOW_S, partial(update_server_info, client, metrics)),
    ]
    return EntrySource(stream, maintenance)


def _in_memory(settings: Settings, connect: ClientFactory, metrics: Metrics) -> Backends:
    cache_settings = CacheSettings(
        prefix=settings.cache_redis_prefix_key,
        ttl_s=math.ceil(settings.cache_local_ttl),
        conversation_messages=settings.conversation_messages,
    )
    client = connect(settings.stream_uri)
    stream = UngroupedStreamReader(
        connect(settings.stream_uri, block_s=settings.stream_block_s),
        client,
        settings.stream_key,
        batch_size=settings.stream_batch_size,
        block_s=settings.stream_block_s,
        since_s=settings.cache_local_ttl,
    )
    bindings = MemoryBindings()
    memory = MemoryDocuments(
        cache_settings,
        settings.local_max_bytes,
        accounts=bindings.accounts,
        is_whole=lambda: stream.is_caught_up,
    )
    metrics.local_cache_entries.set_function(memory.__len__)

    async def measure_length() -> None:
        metrics.stream_length.set(await stream.length())

    maintenance: list[PeriodicTask] = [
        (FAST_S, measure_length),
        (SLOW_S, partial(update_server_info, client, metrics)),
    ]
    return Backends(
        source=lambda: EntrySource(stream, maintenance),
        cache=memory,
        bindings=bindings,
        reader=DocumentReader(memory, cache_settings.prefix, rules=settings.origin_rules),
        ready=(memory,),
    )
