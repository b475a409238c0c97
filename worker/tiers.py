"""Where documents are: in Redis, with memory in front of it or without, or in memory alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from worker.core.keys import Keys
from worker.health import Server
from worker.metrics import Metrics
from worker.pipeline.consumer import EntryStream
from worker.pipeline.directory import BindingTable
from worker.pipeline.settle import DocumentCache
from worker.pipeline.upkeep import MeasuredStream
from worker.settings import RedisUri, Settings
from worker.store import bindings
from worker.store.cache import Cache, CacheSettings
from worker.store.connect import Client
from worker.store.local import Local
from worker.store.memory import Memory
from worker.store.reader import Reader, redis_reader
from worker.store.replay import Replay
from worker.store.stream import Stream, StreamSettings
from worker.store.table import MemoryTable
from worker.store.tracking import Tracking


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


class AnyStream(EntryStream, MeasuredStream, Protocol):
    """What is consumed, and measured beside it."""


@dataclass(frozen=True, slots=True)
class Tiers:
    """What reads and writes documents; `ready` are those without whom nothing can be read."""

    stream: Callable[[], AnyStream]
    cache: DocumentCache
    table: BindingTable
    reader: Reader
    ready: Sequence[Server] = ()
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
        stream=lambda: _group(settings, connect),
        cache=Cache(client, of),
        table=bindings.BindingTable(client, of),
        # On a client of its own: readers do not wait behind a batch, nor writers behind them.
        reader=redis_reader(connect(settings.cache_uri), of.prefix, local),
        tracking=tracking,
    )


def _group(settings: Settings, connect: Connect) -> Stream:
    return Stream(
        connect(settings.stream_uri, block_s=settings.stream_block_s),
        connect(settings.stream_uri),
        StreamSettings(
            key=settings.stream_key,
            group=settings.stream_group,
            consumer=settings.consumer_name,
            batch_size=settings.stream_batch_size,
            block_s=settings.stream_block_s,
            dead_max_entries=settings.dead_max_entries,
            dead_retention_s=settings.dead_retention_s,
        ),
    )


def _in_memory(settings: Settings, connect: Connect, metrics: Metrics) -> Tiers:
    of = CacheSettings(
        prefix=settings.cache_redis_prefix_key,
        ttl_s=math.ceil(settings.cache_local_ttl),
        conversation_messages=settings.conversation_messages,
    )
    stream = Replay(
        connect(settings.stream_uri, block_s=settings.stream_block_s),
        connect(settings.stream_uri),
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
        stream=lambda: stream,
        cache=memory,
        table=table,
        reader=Reader(memory, of.prefix),
        ready=(memory,),
    )
