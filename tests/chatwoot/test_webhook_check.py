"""`doctor` names the way in which webhooks do not arrive."""

import socket
from collections.abc import Iterator

import pytest
from prometheus_client import generate_latest

from tests.chatwoot.conftest import Command
from tests.fakes.chatwoot import Chatwoot
from tests.fakes.http import FakeServer, Reply
from worker.core.chatwoot_event import EVENTS
from worker.ops.metrics import Metrics

PATH = "/chatwoot/webhook"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1", 10)


@pytest.fixture
def worker(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """What a worker says of itself."""
    with FakeServer(lambda _request: Reply(200, generate_latest(metrics.registry))) as ops:
        monkeypatch.setenv("CHATWOOT_CACHE_OPS_PORT", ops.url.rpartition(":")[2])
        yield ops


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the other checks waits as long as the worker does."""
    monkeypatch.setenv("CHATWOOT_CACHE_STREAM_BLOCK_S", "0.02")


def arriving(command: Command) -> tuple[str, str]:
    """The level of what is said of arriving webhooks, and all of what is said."""
    (row,) = [row for row in command("doctor", "--json").json if row["check"] == "arriving"]
    return row["level"], f"{row['says']} {row['advice']}"


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("no_credentials", "before 4.11.2 signs nothing"),
        ("bad_signature", "the secret is not that of this webhook"),
        ("wrong_account", "the secret of another account"),
        ("bad_method", "redirect"),
        ("bad_timestamp", "NTP"),
        ("internal", "see webhook.rejected in the worker's log"),
    ],
)
def test_refusals_are_named_with_what_to_do(
    command: Command, metrics: Metrics, reason: str, advice: str
) -> None:
    metrics.webhook_requests.labels(code="401", reason=reason).inc(3)
    level, said = arriving(command)
    assert level == "problem"
    assert f"{reason} 3" in said
    assert advice in said

    metrics.webhook_requests.labels(code="200", reason="accepted").inc()
    assert arriving(command)[0] == "warning"


@pytest.mark.usefixtures("worker")
def test_all_is_well_where_some_came_and_none_was_refused(
    command: Command, metrics: Metrics
) -> None:
    metrics.webhook_requests.labels(code="200", reason="spooled").inc()

    assert arriving(command)[0] == "ok"


@pytest.mark.usefixtures("worker")
def test_none_ever_received_lists_the_usual_ways(command: Command) -> None:
    level, said = arriving(command)

    assert level == "warning"
    assert "none has arrived" in said
    for way in ("connect", "SAFE_FETCH_ALLOW_PRIVATE_NETWORK", "without a dot", "redirect"):
        assert way in said


def test_without_a_worker_it_cannot_be_told(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("CHATWOOT_CACHE_OPS_PORT", str(free.getsockname()[1]))
        assert arriving(command)[0] == "unknown"


@pytest.fixture
def known(worker: FakeServer, chatwoot: Chatwoot, monkeypatch: pytest.MonkeyPatch) -> Chatwoot:
    """A Chatwoot that can be asked, and no webhook has arrived."""
    assert worker.url
    monkeypatch.setenv("CHATWOOT_CACHE_CHATWOOT_URL", chatwoot.url)
    monkeypatch.setenv("CHATWOOT_CACHE_CHATWOOT_TOKENS", '{"3": "admin-token"}')
    return chatwoot


def test_chatwoot_has_no_webhook_to_us(command: Command, known: Chatwoot) -> None:
    known.webhooks[3].append({"id": 1, "url": "https://n8n.test/x", "subscriptions": []})

    level, said = arriving(command)
    assert (level, f"account 3 has no webhook to {PATH}" in said) == ("problem", True)


def test_the_webhook_lacks_events(command: Command, known: Chatwoot) -> None:
    url = f"https://cache.test{PATH}"
    known.webhooks[3].append({"id": 1, "url": url, "subscriptions": ["message_created"]})

    level, said = arriving(command)
    assert (level, "lacks message_updated, conversation_created" in said) == ("problem", True)


@pytest.mark.parametrize(
    "host", ["chatwoot-cache.internal:9", "worker:9", "10.0.0.1:9", "127.0.0.1:9"]
)
def test_the_webhook_is_to_a_private_address(command: Command, known: Chatwoot, host: str) -> None:
    url = f"http://{host}{PATH}?token=hidden"
    known.webhooks[3].append({"id": 1, "url": url, "subscriptions": list(EVENTS)})
    if host.startswith("10."):
        known.webhooks[3][0]["url"] = url.replace("10.0.0.1:9", "[::1]:9")

    level, said = arriving(command)
    assert level == "problem"
    assert "SAFE_FETCH_ALLOW_PRIVATE_NETWORK" in said
    assert "hidden" not in said


def test_the_webhook_redirects(command: Command, known: Chatwoot) -> None:
    to = {"Location": f"https://cache.exemplo.test{PATH}"}
    with FakeServer(lambda _request: Reply(301, b"", to)) as proxy:
        known.webhooks[3].append(
            {"id": 1, "url": f"{proxy.url}{PATH}", "subscriptions": list(EVENTS)}
        )
        level, said = arriving(command)

    assert level == "problem"
    assert "redirects to https://cache.exemplo.test" in said
