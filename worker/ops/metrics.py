"""The metrics of the worker, on a registry of its own.

Metric names and labels are public interface. Every combination of a closed set of label values
exists at 0 from the start, so that `rate()` works for the first incident.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, product
from typing import Final, Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.metrics_core import (
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from worker.errors import REASONS, UNAVAILABLE_KINDS

PREFIX: Final = "chatwoot_cache_"

EVENTS: Final = (
    "message_created",
    "message_updated",
    "conversation_created",
    "conversation_updated",
    "conversation_status_changed",
)
"""Values of the label `event`; every other event counts as `OTHER_EVENT`."""

OTHER_EVENT: Final = "other"
OTHER_INSTANCE: Final = "_other"

_WEBHOOK_REASONS: Final = {
    "200": "accepted spooled bot_contact",
    "400": "disconnected",
    "401": "no_credentials bad_signature bad_timestamp bad_token wrong_account signature_required"
    " no_account",
    "404": "not_found",
    "405": "bad_method",
    "408": "slow_body",
    "413": "too_large",
    "415": "bad_content_type bad_content_encoding",
    "422": "bad_instance bad_json not_object too_deep",
    "500": "internal",
    "503": "busy closed redis_unavailable redis_refused spool_full spool_failed timeout",
}
WEBHOOK_ANSWERS: Final = tuple(
    (code, reason) for code, reasons in _WEBHOOK_REASONS.items() for reason in reasons.split()
)
"""Status code and reason of every response of the webhook."""

PORTS: Final = ("http", "ops")
CONNECTIONS_CLOSED: Final = (
    "full",
    "slow_head",
    "large_head",
    "slow_body",
    "large_trailers",
    "too_far_ahead",
)
"""Why the server closed a connection."""

READ_KINDS: Final = ("message", "source", "conversation", "messages", "contact")
READ_RESULTS: Final = {
    "local": ("found", "missing"),
    "redis": ("found", "missing"),
    "none": ("rejected", "unavailable", "failed"),
}
"""Results of a read, by the tier that answered; `none` when no tier was asked."""

_GROUP_WIDE: Final = "Every worker of the group reports the same value: use max, not sum."
_SHARED: Final = "Workers that share a directory report the same value: use max, not sum."

_BATCH_ENTRIES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_BATCH_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_AGE_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600)
_READ_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1, 2.5, 5)
_WEBHOOK_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 4, 5)


T = TypeVar("T")


class OptionalMetric(Generic[T]):
    """A metric that is absent until `set`, and again after `clear`.

    For values that 0 would misstate: the time of an event before the first one, an unknown lag.
    """

    def __init__(
        self,
        family: Callable[..., Metric],
        name: str,
        documentation: str,
        registry: CollectorRegistry,
    ) -> None:
        self._family = family
        self._name = PREFIX + name
        self._documentation = documentation
        self._value: T | None = None
        registry.register(self)

    def set(self, value: T) -> None:
        """Show this value from now on."""
        self._value = value

    def clear(self) -> None:
        """Remove the metric from the exposition."""
        self._value = None

    def describe(self) -> Iterable[Metric]:
        """Reserve the name in the registry."""
        return [self._family(self._name, self._documentation)]

    def collect(self) -> Iterable[Metric]:
        """Return the metric if it has a value."""
        if self._value is None:
            return []
        return [self._family(self._name, self._documentation, value=self._value)]


class BulkHistogram:
    """A histogram that observes many values at once; the library's locks for each value."""

    def __init__(
        self, name: str, documentation: str, buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe_all(self, values: Sequence[float]) -> None:
        """Count each value in the first bucket whose bound is at least the value."""
        for value in values:
            self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += sum(values)

    def collect(self) -> Iterable[Metric]:
        """Return the histogram."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        return [HistogramMetricFamily(self._name, self._documentation, buckets, self._sum)]


class Metrics:
    """Every metric of the worker; a collector for the encoders of prometheus_client.

    `max_instances` bounds the number of values of the label `evolution_instance`.
    """

    def __init__(self, version: str, max_instances: int) -> None:
        self.registry = CollectorRegistry()
        self._max_instances = max_instances
        self._instances: set[str] = set()
        self._conflicts: set[tuple[str, ...]] = set()
        self._add_process_metrics(version)
        self._add_entry_metrics()
        self._add_document_metrics()
        self._add_stream_metrics()
        self._add_redis_metrics()
        self._add_webhook_metrics()
        self._add_read_metrics()
        self._add_connection_metrics()

    def count_event(self, event: str, instance: str, n: int = 1) -> None:
        """Count `n` events of an instance; both may be any string, and cardinality stays bounded.

        An event that is not in `EVENTS` counts as `other` without an instance; an instance beyond
        the first `max_instances` counts as `_other`.
        """
        if event in EVENTS:
            self.events.labels(event=event, evolution_instance=self._instance_label(instance)).inc(
                n
            )
        else:
            self.events.labels(event=OTHER_EVENT, evolution_instance="").inc(n)

    def count_read(self, kind: str, tier: str, result: str, duration_s: float) -> None:
        """Count one read, with labels of `READ_KINDS` and `READ_RESULTS`."""
        self.reads.labels(kind, tier, result).inc()
        self.read_duration_seconds.labels(tier).observe(duration_s)

    def count_conflict(self, inbox: str, instance: str | None, bound: str | None) -> None:
        """Count an event that a binding forbids; conflicts beyond `max_instances` are `_other`."""
        labels = tuple(_encodable(label or "") for label in (inbox, instance, bound))
        if labels not in self._conflicts and len(self._conflicts) >= self._max_instances:
            labels = (OTHER_INSTANCE,) * 3
        self._conflicts.add(labels)
        self.instance_conflicts.labels(*labels).inc()

    def collect(self) -> Iterator[Metric]:
        """Return every metric without its `_created` series, which would double the exposition."""
        for family in self.registry.collect():
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family

    def _instance_label(self, instance: str) -> str:
        label = _encodable(instance)
        if not label or label in self._instances:
            return label
        if len(self._instances) >= self._max_instances:
            return OTHER_INSTANCE
        self._instances.add(label)
        return label

    def _add_process_metrics(self, version: str) -> None:
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        build = Info(PREFIX + "build", "The version of the worker.", registry=self.registry)
        build.info({"version": version})

    def _add_entry_metrics(self) -> None:
        self.entries_read = self._counter(
            "entries_read",
            "Entries read from the stream, by source: new, own pending, reclaimed.",
            source=("new", "own", "reclaimed"),
        )
        self.entries_settled = self._counter(
            "entries_settled",
            "Entries settled, by outcome.",
            outcome=("applied", "stale", "ignored", "dead"),
        )
        self.entries_acked = self._counter("entries_acked", "Entries acknowledged to the group.")
        self.dead_letters = self._counter(
            "dead_letters", "Entries added to the dead-letter stream, by reason.", reason=REASONS
        )
        self.instance_conflicts = self._counter(
            "instance_conflicts",
            "Events that a binding forbids: their inbox and instance, and what is bound instead.",
            "inbox",
            "evolution_instance",
            "bound",
        )
        self.batch_entries = self._histogram(
            "batch_entries", "Number of entries in a batch.", _BATCH_ENTRIES
        )
        self.batch_duration_seconds = self._histogram(
            "batch_duration_seconds", "Time to settle a batch, in the successful attempt.", _BATCH_S
        )
        self.entry_age_seconds = BulkHistogram(
            PREFIX + "entry_age_seconds",
            "Time from an entry's id to its effect in the cache.",
            _AGE_S,
            self.registry,
        )
        self.inflight_entries = self._gauge(
            "inflight_entries", "Entries that this worker has read and not settled."
        )
        self.last_read_timestamp_seconds = self._optional_gauge(
            "last_read_timestamp_seconds", "When this worker last read an entry, in Unix time."
        )
        self.last_settled_timestamp_seconds = self._optional_gauge(
            "last_settled_timestamp_seconds", "When this worker last settled one, in Unix time."
        )

    def _add_document_metrics(self) -> None:
        self.events = self._counter(
            "events",
            "Events settled, by kind of event and Evolution instance.",
            event=(OTHER_EVENT,),
            evolution_instance=("",),
        )
        self.documents_written = self._counter(
            "documents_written", "Documents written, by kind.", kind=("message", "conversation")
        )
        self.write_conflicts = self._counter(
            "write_conflicts", "Writes that were merged with the cached document and sent again."
        )

    def _add_stream_metrics(self) -> None:
        self.stream_length = self._gauge("stream_length", f"Entries in the stream. {_GROUP_WIDE}")
        self.stream_lag_entries = self._optional_gauge(
            "stream_lag_entries",
            f"Entries that the group has not read; absent when unknown. {_GROUP_WIDE}",
        )
        self.stream_lag_known = self._gauge(
            "stream_lag_known", f"1 when Redis knows the lag of the group, else 0. {_GROUP_WIDE}"
        )
        self.stream_pending_entries = self._gauge(
            "stream_pending_entries", f"Entries read and not acknowledged. {_GROUP_WIDE}"
        )
        self.stream_oldest_pending_timestamp_seconds = self._optional_gauge(
            "stream_oldest_pending_timestamp_seconds",
            f"Time of the oldest pending entry, in Unix time; absent without one. {_GROUP_WIDE}",
        )
        self.stream_trimmed_entries = self._counter(
            "stream_trimmed_entries", "Entries this worker trimmed from the stream."
        )
        self.stream_trim_held_back = self._gauge(
            "stream_trim_held_back",
            "1 while another group keeps entries beyond the retention by not acknowledging them. "
            "Only the worker that trims knows: use max, not sum.",
        )
        self.stream_lost_entries = self._counter(
            "stream_lost_entries",
            "Entries lost before they were settled, by reason; each is counted by one worker. "
            "trimmed_unread and group_recreated are estimates.",
            reason=("trimmed_pending", "trimmed_unread", "group_recreated", "dead_dropped"),
        )
        self.stream_group_recreations = self._counter(
            "stream_group_recreations", "How often the consumer group was missing and recreated."
        )

    def _add_redis_metrics(self) -> None:
        self.redis_up = self._gauge("redis_up", "1 when Redis answered the last command, else 0.")
        self.redis_errors = self._counter(
            "redis_errors", "Commands that Redis could not serve, by kind.", kind=UNAVAILABLE_KINDS
        )
        self.redis_server_info = OptionalMetric[dict[str, str]](
            InfoMetricFamily, "redis_server", "The server of the stream.", self.registry
        )

    def _add_webhook_metrics(self) -> None:
        self.webhook_requests = self._counter(
            "webhook_requests", "Responses to webhooks, by code and reason.", "code", "reason"
        )
        for code, reason in WEBHOOK_ANSWERS:
            self.webhook_requests.labels(code=code, reason=reason)
        self.webhook_duration_seconds = self._histogram(
            "webhook_duration_seconds", "Time from a webhook's headers to its response.", _WEBHOOK_S
        )
        self.webhook_spool_bytes = self._gauge(
            "webhook_spool_bytes", f"Bytes in use by the spool, with its own pages. {_SHARED}"
        )
        self.webhook_spool_entries = self._gauge(
            "webhook_spool_entries", f"Webhooks in the spool that wait for Redis. {_SHARED}"
        )
        self.webhook_spool_drained = self._counter(
            "webhook_spool_drained", "Webhooks this worker moved from the spool to the stream."
        )

    def _add_read_metrics(self) -> None:
        self.reads = self._counter(
            "reads", "Reads served over HTTP, by kind, tier and result.", "kind", "tier", "result"
        )
        self.read_through = self._counter(
            "read_through",
            "Reads that asked Chatwoot, by result.",
            result=("fetched", "missing", "failed"),
        )
        self.read_duration_seconds = self._histogram(
            "read_duration_seconds",
            "Time to answer a read, by tier; with long polling.",
            _READ_S,
            "tier",
        )
        for tier, results in READ_RESULTS.items():
            self.read_duration_seconds.labels(tier)
            for kind, result in product(READ_KINDS, results):
                self.reads.labels(kind, tier, result)
        self.local_cache_entries = self._gauge(
            "local_cache_entries", "Values in the memory of this process."
        )

    def _add_connection_metrics(self) -> None:
        self.http_connections = Gauge(
            PREFIX + "http_connections",
            "Open connections, by port.",
            ["port"],
            registry=self.registry,
        )
        for port in PORTS:
            self.http_connections.labels(port)
        self.http_connections_closed = self._counter(
            "http_connections_closed",
            "Connections that the worker closed, by port and by the limit they met.",
            port=PORTS,
            reason=CONNECTIONS_CLOSED,
        )

    def _counter(
        self, name: str, documentation: str, *labels: str, **closed: tuple[str, ...]
    ) -> Counter:
        """Add a counter; every combination of the values of `closed` labels starts at 0."""
        names = [*labels, *closed]
        counter = Counter(PREFIX + name, documentation, names, registry=self.registry)
        for values in product(*closed.values()) if closed else ():
            counter.labels(*values)
        return counter

    def _gauge(self, name: str, documentation: str) -> Gauge:
        return Gauge(PREFIX + name, documentation, registry=self.registry)

    def _optional_gauge(self, name: str, documentation: str) -> OptionalMetric[float]:
        return OptionalMetric[float](GaugeMetricFamily, name, documentation, self.registry)

    def _histogram(
        self, name: str, documentation: str, buckets: Sequence[float], *labels: str
    ) -> Histogram:
        return Histogram(
            PREFIX + name, documentation, labels, buckets=buckets, registry=self.registry
        )


def _encodable(label: str) -> str:
    """Replace lone surrogates, which would make the whole exposition unreadable."""
    return label.encode("utf-8", "replace").decode()
