"""Collects the state of an installation for `status`."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from worker.core.binding_rules import BindingResolver, Bindings
from worker.core.operations.last_event_times import last_event_ms
from worker.ingest.spool.spool_database import SpoolStats, read_stats
from worker.settings import Settings
from worker.store.admin.cache_usage import CacheUsage, measure_usage
from worker.store.admin.stream_info import DeadLetterInfo, StreamInfo, StreamInspector
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_writer import CacheSettings
from worker.store.client import Client

_USAGE_S: Final = 10.0
"""How long a count of the cache's keys is used."""


@dataclass(frozen=True, slots=True)
class StreamRates:
    """Entries per second between two samples: added to the stream, and read by the group."""

    added_per_s: float
    read_per_s: float | None


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    """A consumer of the group and its pending entries; times in seconds."""

    name: str
    pending: int
    oldest_pending_s: float | None
    idle_s: float


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """Documents of an instance, and the age of its last event in seconds."""

    name: str
    messages: int
    conversations: int
    last_event_s: float | None


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """Stream and group; ages in seconds, None where there is nothing or it is unknown."""

    length: int
    last_entry_s: float | None
    position: str | None
    lag: int | None
    pending: int
    oldest_pending_s: float | None


@dataclass(frozen=True, slots=True)
class StatusReport:
    """Everything that `status` shows; `at` is Unix time."""

    at: float
    stream: StreamStatus | None
    rates: StreamRates | None
    consumers: tuple[ConsumerStatus, ...]
    dead: DeadLetterInfo
    instances: tuple[InstanceStatus, ...]
    instances_estimated: bool
    spool: SpoolStats | None


class StatusCollector:
    """Collects reports; from the second sample on they have rates."""

    def __init__(self, settings: Settings, stream: Client, cache: Client) -> None:
        self._settings = settings
        self._cache = cache
        self._inspector = StreamInspector(stream, settings.stream_key, settings.stream_group)
        of = CacheSettings(
            prefix=settings.cache_redis_prefix_key,
            ttl_s=settings.cache_redis_ttl,
            conversation_messages=settings.conversation_messages,
        )
        self._bindings = BindingTable(cache, of)
        self._sampled: tuple[float, StreamInfo | None] | None = None
        self._usage: tuple[float, CacheUsage] | None = None

    async def sample(self) -> None:
        """Sample the stream for the rates of the next report."""
        self._sampled = time.time(), await self._inspector.stream()

    async def report(self) -> StatusReport:
        """Return the state of everything."""
        before = self._sampled
        await self.sample()
        now, stream = self._sampled or (time.time(), None)
        usage = await self._cache_usage(now)
        return StatusReport(
            at=now,
            stream=_stream_status(stream, now) if stream else None,
            rates=await self._rates(before, now, stream),
            consumers=await self._consumers(now) if stream and stream.group else (),
            dead=await self._inspector.dead_letters(),
            instances=_instances(usage, await self._last_events(), now),
            instances_estimated=usage.is_estimate,
            spool=self._spool(),
        )

    async def _rates(
        self, before: tuple[float, StreamInfo | None] | None, now: float, stream: StreamInfo | None
    ) -> StreamRates | None:
        if before is None or before[1] is None or stream is None:
            return None
        seconds = max(now - before[0], 0.001)
        read = _read_between(before[1], stream)
        added = await self._added_between(before[1], stream)
        return StreamRates(added / seconds, None if read is None else read / seconds)

    async def _added_between(self, before: StreamInfo, after: StreamInfo) -> int:
        if before.added is None or after.added is None:
            return await self._inspector.count_after(before.last_id)
        return max(0, after.added - before.added)

    async def _cache_usage(self, now: float) -> CacheUsage:
        if self._usage is None or now - self._usage[0] > _USAGE_S:
            usage = await measure_usage(self._cache, self._settings.cache_redis_prefix_key)
            self._usage = now, usage
        return self._usage[1]

    async def _consumers(self, now: float) -> tuple[ConsumerStatus, ...]:
        return tuple(
            ConsumerStatus(
                consumer.name,
                consumer.pending,
                _age_s(consumer.oldest_pending_s, now),
                consumer.idle_s,
            )
            for consumer in await self._inspector.consumers()
        )

    async def _last_events(self) -> Mapping[str, int]:
        bindings = await self._bindings.load()
        operator = Bindings.of_operator(self._settings.instances)
        resolver = BindingResolver(
            bindings.overruled_by(operator),
            from_inbox_name=self._settings.instance_from_inbox_name,
        )
        return last_event_ms(await self._inspector.newest(), resolver)

    def _spool(self) -> SpoolStats | None:
        directory = self._settings.webhook_spool_dir
        return (read_stats(directory) or SpoolStats(0, 0)) if directory else None


def _stream_status(stream: StreamInfo, now: float) -> StreamStatus:
    group = stream.group
    return StreamStatus(
        length=stream.length,
        last_entry_s=_age_s(stream.last_entry_s, now),
        position=group.delivered.decode() if group else None,
        lag=group.lag if group else None,
        pending=group.pending if group else 0,
        oldest_pending_s=_age_s(group.oldest_pending_s, now) if group else None,
    )


def _read_between(before: StreamInfo, after: StreamInfo) -> int | None:
    was, now = before.group, after.group
    if was is None or now is None or was.read is None or now.read is None:
        return None
    return max(0, now.read - was.read)


def _instances(
    usage: CacheUsage, last_events: Mapping[str, int], now: float
) -> tuple[InstanceStatus, ...]:
    scale = usage.scale
    found = [
        InstanceStatus(
            name,
            messages=round(scale * usage.kinds.get(name, {}).get("message", 0)),
            conversations=round(scale * usage.kinds.get(name, {}).get("conversation", 0)),
            last_event_s=max(0.0, now - last_events[name] / 1000) if name in last_events else None,
        )
        for name in {*usage.kinds, *last_events}
    ]
    return tuple(sorted(found, key=_recency))


def _recency(instance: InstanceStatus) -> tuple[float, str]:
    """Sort by age in whole seconds, so that busy instances keep their places, then by name."""
    last_s = instance.last_event_s
    return (math.inf if last_s is None else last_s // 1, instance.name)


def _age_s(at: float | None, now: float) -> float | None:
    return None if at is None else max(0.0, now - at)
