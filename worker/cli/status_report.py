"""How an installation stands at one moment: what `status` shows."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from worker.core.binding_rules import BindingResolver, Bindings
from worker.core.stream_entry import entry_time_s
from worker.core.tooling.last_activity import last_activity
from worker.ingest.spool.spool_database import SpoolStats, read_stats
from worker.settings import Settings
from worker.store.admin.cache_usage import CacheUsage, measure_usage
from worker.store.admin.stream_info import DeadLetterInfo, StreamInfo, StreamInspector
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_writer import CacheSettings
from worker.store.client import Client

_COUNTED_AFRESH_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class StreamRates:
    """Events a second between two looks: put on the stream, and read by the group."""

    added_per_s: float
    read_per_s: float | None


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    """A consumer of the group, and what it has in hand; times in seconds."""

    name: str
    pending: int
    oldest_pending_s: float | None
    idle_s: float


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """How much the cache holds of an instance, and how long ago its last event came."""

    name: str
    messages: int
    conversations: int
    last_event_s: float | None


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """Stream and group; times in seconds, None where there is nothing or nobody knows."""

    length: int
    last_entry_s: float | None
    position: str | None
    lag: int | None
    pending: int
    oldest_pending_s: float | None


@dataclass(frozen=True, slots=True)
class StatusReport:
    """Everything on one screen."""

    at: float
    stream: StreamStatus | None
    rates: StreamRates | None
    consumers: tuple[ConsumerStatus, ...]
    dead: DeadLetterInfo
    instances: tuple[InstanceStatus, ...]
    instances_estimated: bool
    spool: SpoolStats | None


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    view: StreamInfo | None


class StatusCollector:
    """Looks again and again; from the second look on there are rates."""

    def __init__(self, settings: Settings, stream: Client, cache: Client) -> None:
        self._settings = settings
        self._cache = cache
        self._census = StreamInspector(stream, settings.stream_key, settings.stream_group)
        of = CacheSettings(
            prefix=settings.cache_redis_prefix_key,
            ttl_s=settings.cache_redis_ttl,
            conversation_messages=settings.conversation_messages,
        )
        self._bindings = BindingTable(cache, of)
        self._before: _Look | None = None
        self._counted: tuple[float, CacheUsage] | None = None

    async def check(self) -> None:
        """Only remember how the stream stands, for the rates of the next look."""
        self._before = _Look(time.time(), await self._census.stream())

    async def look(self) -> StatusReport:
        """Look at everything."""
        view = await self._census.stream()
        now = time.time()
        rates = await self._rates(_Look(now, view))
        counted = await self._count(now)
        return StatusReport(
            at=now,
            stream=self._position(view, now),
            rates=rates,
            consumers=await self._consumers(view, now),
            dead=await self._census.letters(),
            instances=_instances(counted, await self._last_events(), now),
            instances_estimated=counted.is_estimate,
            spool=self._spool(),
        )

    def _position(self, view: StreamInfo | None, now: float) -> StreamStatus | None:
        if view is None:
            return None
        group = view.group(self._settings.stream_group)
        lag = group.lag if group else None
        if group and lag is None and group.position == view.last:
            lag = 0
        return StreamStatus(
            length=view.length,
            last_entry_s=_age_s(view.last if view.length else None, now),
            position=group.position if group else None,
            lag=lag,
            pending=group.pending if group else 0,
            oldest_pending_s=_age_s(group.oldest_pending if group else None, now),
        )

    async def _rates(self, look: _Look) -> StreamRates | None:
        before, self._before = self._before, look
        if before is None or before.view is None or look.view is None:
            return None
        seconds = max(look.at - before.at, 0.001)
        read = _read_between(before.view, look.view, self._settings.stream_group)
        added = await self._added_between(before.view, look.view)
        return StreamRates(added / seconds, None if read is None else read / seconds)

    async def _added_between(self, before: StreamInfo, after: StreamInfo) -> int:
        if before.added is None or after.added is None:
            return await self._census.count_after(before.last)
        return max(0, after.added - before.added)

    async def _count(self, now: float) -> CacheUsage:
        if self._counted is None or now - self._counted[0] > _COUNTED_AFRESH_S:
            counted = await measure_usage(self._cache, self._settings.cache_redis_prefix_key)
            self._counted = now, counted
        return self._counted[1]

    async def _consumers(self, view: StreamInfo | None, now: float) -> tuple[ConsumerStatus, ...]:
        if view is None or view.group(self._settings.stream_group) is None:
            return ()
        return tuple(
            ConsumerStatus(
                found.name, found.pending, _age_s(found.oldest_pending, now), found.idle_s
            )
            for found in await self._census.consumers()
        )

    async def _last_events(self) -> Mapping[str, int]:
        bindings = await self._bindings.load()
        operator = Bindings.of_operator(self._settings.instances)
        resolver = BindingResolver(
            bindings.overruled_by(operator),
            from_inbox_name=self._settings.instance_from_inbox_name,
        )
        return last_activity(await self._census.newest(), resolver)

    def _spool(self) -> SpoolStats | None:
        directory = self._settings.webhook_spool_dir
        return (read_stats(directory) or SpoolStats(0, 0)) if directory else None


def _read_between(before: StreamInfo, after: StreamInfo, name: str) -> int | None:
    was, now = before.group(name), after.group(name)
    if was is None or now is None or was.entries_read is None or now.entries_read is None:
        return None
    return max(0, now.entries_read - was.entries_read)


def _instances(
    counted: CacheUsage, lately: Mapping[str, int], now: float
) -> tuple[InstanceStatus, ...]:
    scale = counted.scale
    found = [
        InstanceStatus(
            name,
            messages=round(scale * counted.kinds.get(name, {}).get("message", 0)),
            conversations=round(scale * counted.kinds.get(name, {}).get("conversation", 0)),
            last_event_s=max(0.0, now - lately[name] / 1000) if name in lately else None,
        )
        for name in {*counted.kinds, *lately}
    ]
    return tuple(sorted(found, key=_recency))


def _recency(instance: InstanceStatus) -> tuple[float, str]:
    """The most recent first, in whole seconds so that busy ones keep their places; then by name."""
    last_s = instance.last_event_s
    return (math.inf if last_s is None else last_s // 1, instance.name)


def _age_s(entry_id: str | None, now: float) -> float | None:
    return None if entry_id is None else max(0.0, now - entry_time_s(entry_id.encode()))
