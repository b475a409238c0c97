"""The exposition: series at the start, absent series, bounded labels."""

import pytest
from hypothesis import given, settings, strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from worker.errors import REASONS, UNAVAILABLE_KINDS
from worker.ops.metrics import (
    CONNECTIONS_CLOSED,
    EVENTS,
    PORTS,
    READ_KINDS,
    READ_RESULTS,
    WEBHOOK_ANSWERS,
    Metrics,
)

AT_START = {
    "build_info": 1,
    "entries_read_total": 3,
    "entries_settled_total": 4,
    "entries_acked_total": 1,
    "dead_letters_total": len(REASONS),
    "events_total": 1,
    "documents_written_total": 2,
    "write_conflicts_total": 1,
    "batch_entries_count": 1,
    "batch_duration_seconds_count": 1,
    "entry_age_seconds_count": 1,
    "inflight_entries": 1,
    "stream_length": 1,
    "stream_lag_known": 1,
    "stream_pending_entries": 1,
    "stream_trimmed_entries_total": 1,
    "stream_trim_held_back": 1,
    "stream_lost_entries_total": 4,
    "stream_group_recreations_total": 1,
    "redis_up": 1,
    "redis_errors_total": len(UNAVAILABLE_KINDS),
    "webhook_requests_total": len(WEBHOOK_ANSWERS),
    "webhook_duration_seconds_count": 1,
    "read_through_total": 3,
    "reads_total": sum(len(results) for results in READ_RESULTS.values()) * len(READ_KINDS),
    "read_duration_seconds_count": len(READ_RESULTS),
    "local_cache_entries": 1,
    "webhook_spool_bytes": 1,
    "webhook_spool_entries": 1,
    "webhook_spool_drained_total": 1,
    "http_connections": len(PORTS),
    "http_connections_closed_total": len(PORTS) * len(CONNECTIONS_CLOSED),
}
OPTIONAL = (
    "stream_lag_entries",
    "stream_oldest_pending_timestamp_seconds",
    "last_read_timestamp_seconds",
    "last_settled_timestamp_seconds",
)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.2.3", max_instances=2)


def families(metrics: Metrics) -> list[Metric]:
    return list(text_string_to_metric_families(generate_latest(metrics).decode()))


def series(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """Every sample of one metric of the worker, by its label values in order of their names."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in families(metrics)
        for sample in family.samples
        if sample.name == f"chatwoot_cache_{name}"
    }


@pytest.mark.parametrize(("name", "count"), AT_START.items())
def test_closed_label_sets_exist_at_the_start(metrics: Metrics, name: str, count: int) -> None:
    found = series(metrics, name)

    assert len(found) == count
    assert set(found.values()) == ({1} if name == "build_info" else {0})


def test_no_other_series_exist_at_the_start(metrics: Metrics) -> None:
    found = {sample.name for family in families(metrics) for sample in family.samples}
    ours = {name.removeprefix("chatwoot_cache_") for name in found if "chatwoot" in name}
    histograms = {name[: -len("_count")] for name in AT_START if name.endswith("_count")}
    parts = {name + part for name in histograms for part in ("_bucket", "_sum")}

    assert ours == AT_START.keys() | parts


@pytest.mark.parametrize("name", [*OPTIONAL, "redis_server_info"])
def test_unknown_values_are_absent_with_their_help(metrics: Metrics, name: str) -> None:
    assert f"chatwoot_cache_{name}" not in generate_latest(metrics).decode()


@pytest.mark.parametrize("name", OPTIONAL)
def test_an_optional_gauge_is_set_and_cleared(metrics: Metrics, name: str) -> None:
    gauge = getattr(metrics, name)

    gauge.set(1790863271.5)
    assert series(metrics, name) == {(): 1790863271.5}

    gauge.clear()
    assert series(metrics, name) == {}


def test_a_new_server_replaces_the_old_one(metrics: Metrics) -> None:
    metrics.redis_server_info.set({"server": "redis", "version": "7.0.15"})
    metrics.redis_server_info.set({"server": "valkey", "version": "9.1.0"})

    assert series(metrics, "redis_server_info") == {("valkey", "9.1.0"): 1}


def test_the_version_is_a_label(metrics: Metrics) -> None:
    assert series(metrics, "build_info") == {("1.2.3",): 1}


def test_created_series_are_left_out(metrics: Metrics) -> None:
    assert "_created " not in generate_latest(metrics).decode()
    assert "_created{" not in generate_latest(metrics).decode()


def test_the_process_the_platform_and_the_collector_are_shown(metrics: Metrics) -> None:
    names = {family.name for family in families(metrics)}

    assert {"process_start_time_seconds", "python_info", "python_gc_collections"} <= names


def test_every_help_is_a_sentence_and_group_wide_gauges_say_use_max(metrics: Metrics) -> None:
    for name in OPTIONAL:
        getattr(metrics, name).set(1)
    ours = {f.name: f for f in families(metrics) if f.name.startswith("chatwoot_cache_")}
    group_wide = {
        name
        for name, family in ours.items()
        if name.startswith("chatwoot_cache_stream_") and family.type == "gauge"
    }

    assert all(family.documentation.endswith(".") for family in ours.values())
    assert len(group_wide) == 6
    assert all("use max" in ours[name].documentation for name in group_wide)


def test_two_sets_of_metrics_share_nothing(metrics: Metrics) -> None:
    Metrics("1.2.3", max_instances=2).entries_acked.inc()

    assert series(metrics, "entries_acked_total") == {(): 0}


def test_instances_beyond_the_limit_share_a_series(metrics: Metrics) -> None:
    for instance in ("loja", "", "suporte", "vendas", "loja", "outra", ""):
        metrics.count_event("message_created", instance)

    assert series(metrics, "events_total") == {
        ("message_created", "loja"): 2,
        ("message_created", "suporte"): 1,
        ("message_created", "_other"): 2,
        ("message_created", ""): 2,
        ("other", ""): 0,
    }


def test_an_event_that_is_not_cached_has_neither_name_nor_instance(metrics: Metrics) -> None:
    metrics.count_event("automation_event.message_created", "loja", 3)

    assert series(metrics, "events_total") == {("other", ""): 3}


@settings(deadline=None)  # each example builds a registry
@given(instance=st.text(st.characters()), event=st.sampled_from(EVENTS))
def test_any_instance_name_survives_both_formats(instance: str, event: str) -> None:
    metrics = Metrics("1", max_instances=1)
    metrics.count_event(event, instance)
    expected = instance.encode("utf-8", "replace").decode()

    assert series(metrics, "events_total")[event, expected] == 1
    text = generate_openmetrics(metrics).decode()  # type: ignore[no-untyped-call]  # theirs
    families_too = list(parse_openmetrics(text))  # type: ignore[no-untyped-call]  # theirs
    found = {s.labels.get("evolution_instance") for f in families_too for s in f.samples}
    assert expected in found
