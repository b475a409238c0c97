"""Where documents are: in Redis, with memory in front of it or without, or in memory alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from worker.core.keys import Keys
from worker.core.stream_keys import StreamKeys
from worker.health import Server
from worker.metrics import Metrics
from worker.pipeline.consumer import Book, EntryStream
from worker.pipeline.directory import BindingTable
from worker.pipeline.ledger import Ledger
from worker.pipeline.settle import DocumentCache
from worker.pipeline.upkeep import Charges
from worker.settings import RedisUri, Settings
from worker.store import bindings
from worker.store.bot_purge import BotPurge
from worker.store.cache import Cache, CacheSettings
from worker.store.connect import Client
from worker.store.lease import Lease
from worker.store.local import Local
from worker.store.memory import Memory
from worker.store.namespace import Namespace
from worker.store.reader import Reader, redis_reader
from worker.store.replay import Onlooker, Replay
from worker.store.stream import Stream, StreamSettings
from worker.store.table import MemoryTable
from worker.store.tracking import Tracking
from worker.store.trimmer import Trimmer


class Connect(Protocol):
    """Makes a client that is closed at the end."""

    def __call__(self, uri: RedisUri, *, block_s: float = 0.0) -> Client:
        """Return a client of its own."""


class Together:
    """Several servers, each of which is needed."""

    def __init__(self, *servers: Server) -> None:
        self._servers = servers

    async def ping(self) -> None:
        """Raise unless all of them answer."""
        for server in self._servers:
            await server.ping()


@dataclass(frozen=True, slots=True)
class Source:
    """What is consumed, and what is looked after beside it."""

    stream: EntryStream
    ledger: Book
    charges: Charges


@dataclass(frozen=True, slots=True)
class Tiers:
    """What reads and writes documents; `ready` are those without whom nothing can be read."""

    source: Callable[[], Source]
    cache: DocumentCache
    table: BindingTable
    reader: Reader
    ready: Sequence[Server] = ()
    bot_purge: BotPurge | None = None
    tracking: Tracking | None = None


def build(settings: Settings, connect: Connect, metrics: Metrics) -> Tiers:
    """Build what the settings say; nothing connects yet."""
    return (
        _in_memory(settings, connect, metrics)
        if settings.local_only
        else _in_redis(settings, connect, metrics)
    )


def _in_redis(settings: Settings, connect: Connect, metrics: Metrics) -> Tiers:
    of = CacheSettings(
        prefix=settings.cache_redis_prefix_key,
        ttl_s=settings.cache_redis_ttl,
        conversation_messages=settings.conversation_messages,
    )
    client = connect(settings.cache_uri)
    local = tracking = None
    if settings.cache_local_enabled and settings.reads_enabled:
        local = Local(settings.local_max_bytes, settings.cache_local_ttl)
        tracking = Tracking(connect(settings.cache_uri), Keys(of.prefix).root, local)
        metrics.local_cache_entries.set_function(local.__len__)
    return Tiers(
        source=lambda: _group(settings, connect, metrics),
        cache=Cache(client, of),
        table=bindings.BindingTable(client, of),
        # On a client of its own: readers do not wait behind a batch, nor writers behind them.
        reader=redis_reader(connect(settings.cache_uri), of.prefix, local),
        tracking=tracking,
        bot_purge=BotPurge(
            bindings.BindingTable(client, of),
            Namespace(client, of.prefix),
            connect(settings.stream_uri),
            settings.stream_key,
            settings.stream_group,
        ),
    )


def _group(settings: Settings, connect: Connect, metrics: Metrics) -> Source:
    key, group = settings.stream_key, settings.stream_group
    client = connect(settings.stream_uri)
    stream = Stream(
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
    ledger = Ledger(stream.group, metrics)
    lease = Lease(client, StreamKeys(key, group).lease("upkeep"))
    charges = Charges(stream.group, ledger, trimmer, stream.letters, lease, stream)
    return Source(stream, ledger, charges)


def _in_memory(settings: Settings, connect: Connect, metrics: Metrics) -> Tiers:
    of = CacheSettings(
        prefix=settings.cache_redis_prefix_key,
        ttl_s=math.ceil(settings.cache_local_ttl),
        conversation_messages=settings.conversation_messages,
    )
    client = connect(settings.stream_uri)
    onlooker = Onlooker(client, settings.stream_key)
    charges = Charges(onlooker, onlooker, onlooker, onlooker, onlooker, onlooker)
    stream = Replay(
        connect(settings.stream_uri, block_s=settings.stream_block_s),
        client,
        settings.stream_key,
        batch_size=settings.stream_batch_size,
        block_s=settings.stream_block_s,
        since_s=settings.cache_local_ttl,
    )
    table = MemoryTable()
    memory = Memory(
        of,
        settings.local_max_bytes,
        accounts=table.accounts,
        is_whole=lambda: stream.is_caught_up,
    )
    metrics.local_cache_entries.set_function(memory.__len__)
    return Tiers(
        source=lambda: Source(stream, onlooker, charges),
        cache=memory,
        table=table,
        reader=Reader(memory, of.prefix),
        ready=(memory,),
    )
