"""Every series of ours, on a registry of its own; nothing here measures anything.

Names, labels and meanings are `DESIGN.md` section 9, without its prefix and without `_total`.
Label sets are closed, and every combination of a closed set stands at 0 from the start,
so that a rate exists before the first incident.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, product
from typing import Final

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

SOURCES: Final = ("new", "own", "reclaimed")
OUTCOMES: Final = ("applied", "stale", "ignored", "dead")
KINDS: Final = ("message", "conversation")
LOST: Final = ("trimmed_pending", "trimmed_unread", "group_recreated", "dead_dropped")
EVENTS: Final = (
    "message_created",
    "message_updated",
    "conversation_created",
    "conversation_updated",
    "conversation_status_changed",
)
"""Values of the label `event`; what is none of these counts as `OTHER_EVENT`."""

OTHER_EVENT: Final = "other"
OTHER_INSTANCE: Final = "_other"

WEBHOOK_ANSWERS: Final = (
    ("200", "accepted"),
    ("200", "spooled"),
    ("200", "bot_contact"),
    ("400", "disconnected"),
    ("401", "no_credentials"),
    ("401", "bad_signature"),
    ("401", "bad_timestamp"),
    ("401", "bad_token"),
    ("401", "wrong_account"),
    ("401", "signature_required"),
    ("401", "no_account"),
    ("404", "not_found"),
    ("405", "bad_method"),
    ("408", "slow_body"),
    ("413", "too_large"),
    ("415", "bad_content_type"),
    ("415", "bad_content_encoding"),
    ("422", "bad_instance"),
    ("422", "bad_json"),
    ("422", "not_object"),
    ("422", "too_deep"),
    ("500", "internal"),
    ("503", "busy"),
    ("503", "closed"),
    ("503", "redis_unavailable"),
    ("503", "redis_refused"),
    ("503", "spool_full"),
    ("503", "spool_failed"),
    ("503", "timeout"),
)
"""Every answer of the webhook: status code and reason."""

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
"""What became of a read, by the tier that answered: none where nothing was looked up."""

_GROUP_WIDE: Final = "Every worker of the group reports the same figure: use max, not sum."

_SHARED: Final = "Workers that share a directory report the same figure: use max, not sum."

_BATCH_ENTRIES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_BATCH_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_AGE_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600)
_READ_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1, 2.5, 5)
_WEBHOOK_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 4, 5)


class OptionalGauge:
    """A gauge whose series is absent until `set`, and again after `clear`.

    For what a 0 would misstate: a time that never came, a figure the server cannot tell.
    """

    def __init__(self, name: str, documentation: str, registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._value: float | None = None
        registry.register(self)

    def set(self, value: float) -> None:
        """Show this value from now on."""
        self._value = value

    def clear(self) -> None:
        """Take the series out of the exposition."""
        self._value = None

    def describe(self) -> Iterable[Metric]:
        """Name the series, so that no other may take the name."""
        return [GaugeMetricFamily(self._name, self._documentation)]

    def collect(self) -> Iterable[Metric]:
        """Give the series, or nothing at all."""
        if self._value is None:
            return []
        return [GaugeMetricFamily(self._name, self._documentation, value=self._value)]


class BulkHistogram:
    """A histogram that observes many values at once; the library's takes a lock for each."""

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
        """Count each value in the first bucket whose bound is not below it."""
        for value in values:
            self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += sum(values)

    def collect(self) -> Iterable[Metric]:
        """Give the series."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        return [HistogramMetricFamily(self._name, self._documentation, buckets, self._sum)]


class OptionalInfo:
    """A constant 1 with labels, absent until `info`; a later call replaces the labels."""

    def __init__(self, name: str, documentation: str, registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._labels: dict[str, str] = {}
        registry.register(self)

    def info(self, labels: dict[str, str]) -> None:
        """Show these labels from now on."""
        self._labels = {name: _encodable(value) for name, value in labels.items()}

    def describe(self) -> Iterable[Metric]:
        """Name the series, so that no other may take the name."""
        return [InfoMetricFamily(self._name, self._documentation)]

    def collect(self) -> Iterable[Metric]:
        """Give the series, or nothing at all."""
        if not self._labels:
            return []
        return [InfoMetricFamily(self._name, self._documentation, value=self._labels)]


class Metrics:
    """All series; itself a collector, to be handed to an encoder of prometheus_client.

    `version` is the worker's own; `max_instances` bounds the values of `evolution_instance`.
    """

    def __init__(self, version: str, max_instances: int) -> None:
        self.registry = CollectorRegistry()
        self._max_instances = max_instances
        self._instances: set[str] = set()
        self._conflicts: set[tuple[str, ...]] = set()
        self._about_the_process(version)
        self._about_entries()
        self._about_documents()
        self._about_the_stream()
        self._about_redis()
        self._about_the_webhook()
        self._about_reads()
        self._about_connections()

    def count_event(self, event: str, instance: str, n: int = 1) -> None:
        """Count `n` events of an instance; neither label can grow without bound.

        An `event` that is not cached counts as `other` without an instance; an instance beyond
        the first `max_instances` counts as `_other`. Both may be any string.
        """
        if event in EVENTS:
            self.events.labels(event=event, evolution_instance=self._known(instance)).inc(n)
        else:
            self.events.labels(event=OTHER_EVENT, evolution_instance="").inc(n)

    def count_read(self, kind: str, tier: str, result: str, took_s: float) -> None:
        """Count one read; its labels are of `READ_KINDS` and `READ_RESULTS`."""
        self.reads.labels(kind, tier, result).inc()
        self.read_duration_seconds.labels(tier).observe(took_s)

    def count_conflict(self, inbox: str, instance: str | None, bound: str | None) -> None:
        """Count an event that a binding forbids; beyond `max_instances` pairs, all are `_other`."""
        sides = tuple(_encodable(side or "") for side in (inbox, instance, bound))
        if sides not in self._conflicts and len(self._conflicts) >= self._max_instances:
            sides = (OTHER_INSTANCE,) * 3
        self._conflicts.add(sides)
        self.instance_conflicts.labels(*sides).inc()

    def collect(self) -> Iterator[Metric]:
        """Give every series except `_created`, which would double them and say little."""
        for family in self.registry.collect():
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family

    def _known(self, instance: str) -> str:
        label = _encodable(instance)
        if not label or label in self._instances:
            return label

        if len(self._instances) >= self._max_instances:
            return OTHER_INSTANCE

        self._instances.add(label)
        return label

    def _about_the_process(self, version: str) -> None:
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.build_info = Info(
            PREFIX + "build", "The version of the worker.", registry=self.registry
        )
        self.build_info.info({"version": version})

    def _about_entries(self) -> None:
        self.entries_read = self._counter(
            "entries_read",
            "Entries taken from the stream, by where they were: new, own pending, reclaimed.",
            source=SOURCES,
        )
        self.entries_settled = self._counter(
            "entries_settled", "Entries settled, by outcome.", outcome=OUTCOMES
        )
        self.entries_acked = self._counter("entries_acked", "Entries acknowledged to the group.")
        self.dead_letters = self._counter(
            "dead_letters", "Entries put into the dead-letter stream, by reason.", reason=REASONS
        )
        self.instance_conflicts = Counter(
            PREFIX + "instance_conflicts",
            "Events that a binding forbids: the inbox they came from, the instance they asked for, "
            "and the instance or inbox that stands.",
            ["inbox", "evolution_instance", "bound"],
            registry=self.registry,
        )
        self.batch_entries = self._histogram(
            "batch_entries", "How many entries one batch held.", _BATCH_ENTRIES
        )
        self.batch_duration_seconds = self._histogram(
            "batch_duration_seconds", "Time to settle a batch, in the try that succeeded.", _BATCH_S
        )
        self.entry_age_seconds = BulkHistogram(
            PREFIX + "entry_age_seconds",
            "Time from an entry's id to its effect in the cache.",
            _AGE_S,
            self.registry,
        )
        self.inflight_entries = self._gauge(
            "inflight_entries", "Entries this worker holds and has not settled yet."
        )
        self.last_read_timestamp_seconds = self._optional(
            "last_read_timestamp_seconds", "When this worker last read an entry, in Unix time."
        )
        self.last_settled_timestamp_seconds = self._optional(
            "last_settled_timestamp_seconds", "When this worker last settled one, in Unix time."
        )

    def _about_documents(self) -> None:
        self.events = Counter(
            PREFIX + "events",
            "Events settled, by kind of event and Evolution instance.",
            ["event", "evolution_instance"],
            registry=self.registry,
        )
        self.events.labels(event=OTHER_EVENT, evolution_instance="")
        self.documents_written = self._counter(
            "documents_written", "Documents written to the cache, by kind.", kind=KINDS
        )
        self.write_conflicts = self._counter(
            "write_conflicts", "Drafts that were merged with what the cache held, and sent again."
        )

    def _about_the_stream(self) -> None:
        self.stream_length = self._gauge(
            "stream_length", f"Entries the stream holds. {_GROUP_WIDE}"
        )
        self.stream_lag_entries = self._optional(
            "stream_lag_entries",
            f"Entries the group has not read yet; absent when unknown. {_GROUP_WIDE}",
        )
        self.stream_lag_known = self._gauge(
            "stream_lag_known", f"1 when Redis can tell the group's lag, else 0. {_GROUP_WIDE}"
        )
        self.stream_pending_entries = self._gauge(
            "stream_pending_entries", f"Entries read and not acknowledged yet. {_GROUP_WIDE}"
        )
        self.stream_oldest_pending_timestamp_seconds = self._optional(
            "stream_oldest_pending_timestamp_seconds",
            f"When the oldest pending entry came, in Unix time; absent without one. {_GROUP_WIDE}",
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
            "Entries gone before they were settled, by reason; each is counted by one worker. "
            "trimmed_unread and group_recreated are estimates.",
            reason=LOST,
        )
        self.stream_group_recreations = self._counter(
            "stream_group_recreations", "How often the consumer group was gone and made again."
        )

    def _about_redis(self) -> None:
        self.redis_up = self._gauge("redis_up", "1 when Redis answered the last command, else 0.")
        self.redis_errors = self._counter(
            "redis_errors", "Commands Redis could not serve, by kind.", kind=UNAVAILABLE_KINDS
        )
        self.redis_server_info = OptionalInfo(
            PREFIX + "redis_server", "What server the stream is on.", self.registry
        )

    def _about_the_webhook(self) -> None:
        self.webhook_requests = Counter(
            PREFIX + "webhook_requests",
            "Answers given to webhook requests, by status code and reason.",
            ["code", "reason"],
            registry=self.registry,
        )
        for code, reason in WEBHOOK_ANSWERS:
            self.webhook_requests.labels(code=code, reason=reason)
        self.webhook_duration_seconds = self._histogram(
            "webhook_duration_seconds", "Time from a webhook's headers to its answer.", _WEBHOOK_S
        )
        self.webhook_spool_bytes = self._gauge(
            "webhook_spool_bytes", f"Bytes the spool has in use, with its own pages. {_SHARED}"
        )
        self.webhook_spool_entries = self._gauge(
            "webhook_spool_entries", f"Webhooks that wait in the spool for Redis. {_SHARED}"
        )
        self.webhook_spool_drained = self._counter(
            "webhook_spool_drained", "Webhooks this worker brought from the spool to the stream."
        )

    def _about_reads(self) -> None:
        self.reads = Counter(
            PREFIX + "reads",
            "Reads answered over HTTP, by kind, tier that answered, and result.",
            ["kind", "tier", "result"],
            registry=self.registry,
        )
        self.read_through = self._counter(
            "read_through",
            "Reads for which Chatwoot was asked, by what became of it.",
            result=("fetched", "missing", "failed"),
        )
        self.read_duration_seconds = Histogram(
            PREFIX + "read_duration_seconds",
            "Time to answer a read, by the tier that answered; waiting for a message counts.",
            ["tier"],
            buckets=_READ_S,
            registry=self.registry,
        )
        for tier, results in READ_RESULTS.items():
            self.read_duration_seconds.labels(tier)
            for kind, result in product(READ_KINDS, results):
                self.reads.labels(kind, tier, result)
        self.local_cache_entries = self._gauge(
            "local_cache_entries", "Values held in this process's memory."
        )

    def _about_connections(self) -> None:
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

    def _counter(self, name: str, documentation: str, **labels: tuple[str, ...]) -> Counter:
        counter = Counter(PREFIX + name, documentation, list(labels), registry=self.registry)
        if labels:
            for values in product(*labels.values()):
                counter.labels(*values)
        return counter

    def _gauge(self, name: str, documentation: str) -> Gauge:
        return Gauge(PREFIX + name, documentation, registry=self.registry)

    def _optional(self, name: str, documentation: str) -> OptionalGauge:
        return OptionalGauge(PREFIX + name, documentation, self.registry)

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(PREFIX + name, documentation, buckets=buckets, registry=self.registry)


def _encodable(label: str) -> str:
    """Replace lone surrogates: one of them would make the whole exposition unreadable."""
    return label.encode("utf-8", "replace").decode()
