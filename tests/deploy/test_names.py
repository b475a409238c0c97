"""What deploy/ names exists: a metric or setting renamed in code fails here."""

import re
from collections.abc import Iterator

import pytest
import yaml
from prometheus_client.metrics_core import Metric

from tests.deploy import files
from worker import __main__
from worker.ops.metrics import Metrics
from worker.settings import sources

OTHERS = {"job", "instance"}
"""Labels that Prometheus adds."""


@pytest.fixture(scope="module")
def families() -> list[Metric]:
    """Every family a worker shows, those that are absent at the start among them."""
    metrics = Metrics("0", max_instances=10)
    metrics.count_event("message_created", "loja-aurora")
    metrics.count_conflict("3/12", "loja-aurora", "loja-boreal")
    return list(metrics.registry.collect()) + [
        family
        for collector in metrics.registry._collector_to_names
        if hasattr(collector, "describe")
        for family in collector.describe()
    ]


@pytest.fixture(scope="module")
def exposed(families: list[Metric]) -> set[str]:
    """Every series by the name that a query would use."""
    return {name for family in families for name in _names(family)}


def _names(family: Metric) -> Iterator[str]:
    yield from (sample.name for sample in family.samples)
    yield family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


@pytest.mark.parametrize("where", files.expressions())
def test_every_series_of_a_query_is_exposed(where: str, exposed: set[str]) -> None:
    named = {name for query in files.expressions()[where] for name in files.series(query)}

    assert named <= exposed


def test_every_label_of_a_selector_is_one_of_its_series(families: list[Metric]) -> None:
    known = {
        (sample.name, label)
        for family in families
        for sample in family.samples
        for label in sample.labels
    }
    wrong = {
        (name, label)
        for queries in files.expressions().values()
        for query in queries
        for name, label in files.labels(query)
        if label not in OTHERS and (name, label) not in known
    }

    assert not wrong


def test_every_series_named_elsewhere_is_exposed(exposed: set[str]) -> None:
    for where, text in files.written():
        if where.endswith((".md", ".yaml", ".yml")) and "alerts" not in where:
            named = {name for name in files.series(text) if not name.endswith(("_v1", "_"))}
            assert named - exposed <= SECRETS, where


SECRETS = {"chatwoot_cache_redis_uri_v1", "chatwoot_cache_webhook_secrets_v1"}


def test_every_setting_that_is_named_exists() -> None:
    for where, text in files.written():
        assert files.settings(text) <= sources.NAMES, where


def test_gauges_of_the_group_are_never_added_up(families: list[Metric]) -> None:
    shared = {family.name for family in families if "use max, not sum" in family.documentation}
    assert shared

    for where, queries in files.expressions().items():
        for query in queries:
            for name in files.series(query) & shared:
                uses = re.findall(rf"(\w+)(?: by \([^)]*\))? \({name}\b", query)
                assert uses == ["max"] * query.count(name), (where, name)


def test_every_alert_has_an_entry_in_the_runbook_and_no_entry_is_left_over() -> None:
    headings = re.findall(r"^### (ChatwootCache\w+)$", files.RUNBOOK.read_text(), re.MULTILINE)

    assert sorted(headings) == sorted(files.rules("alert"))


def test_every_alert_has_a_test() -> None:
    tested = yaml.safe_load((files.DEPLOY / "prometheus" / "alerts_test.yaml").read_text())
    raised = {
        case["alertname"]
        for test in tested["tests"]
        for case in test.get("alert_rule_test", ())
        if case["exp_alerts"]
    }

    assert raised == set(files.rules("alert"))


def test_every_file_the_runbook_names_is_there() -> None:
    for path in re.findall(r"\]\(([^)#]+)\)", files.RUNBOOK.read_text()):
        assert (files.DEPLOY / path).exists(), path


def test_every_command_the_runbook_names_exists() -> None:
    text = files.RUNBOOK.read_text()
    named = set(re.findall(r"(?:^|`|\$ )chatwoot-cache ([a-z]+)", text, re.MULTILINE))

    assert named
    assert named <= set(__main__._COMMANDS)
