"""The image works as an orchestrator starts it: no root, no shell, nothing to write on."""

import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from tests.deploy.image import Container
from tests.deploy.started import SECRET, Started
from tests.e2e.place import Place
from tests.events import PAYLOADS, encode, message
from tests.fakes.chatwoot import Chatwoot
from tests.fakes.evolution import Evolution
from tests.servers import Server
from tests.waiting import wait_until

pytestmark = pytest.mark.deploy


async def test_the_started_image_takes_the_samples_and_stops_on_its_signal(
    container: Container, place: Place, tmp_path: Path
) -> None:
    # As `connect` leaves it on the volume.
    secrets = container.volume / "connect.env"
    secrets.write_text(f"CHATWOOT_CACHE_WEBHOOK_SECRETS={json.dumps({'3': SECRET})}\n")
    started = Started(container, place, tmp_path / "log")
    try:
        await started.until_ready()
        assert started.health() == 0

        for sample in sorted((PAYLOADS / "evolution").glob("*.json")):
            answer = started.post(sample.read_bytes())
            assert answer.status_code == 200, (sample.name, answer.text)
        await place.settled()
        assert place.document("loja-aurora", "message", 90214)["content"]

        started.process.send_signal(signal.Signals[container.config["StopSignal"]])
        assert started.process.wait(20) == 0, started.log.read_text()
        assert started.health() == 1
    finally:
        started.process.kill()
        started.process.wait()


async def test_connect_keeps_the_secret_where_the_container_reads_it_again(
    container: Container, place: Place, tmp_path: Path
) -> None:
    """As the runbook says: `exec … connect`, then `restart`; the root is read-only throughout."""
    with Evolution() as evolution, Chatwoot() as chatwoot:
        evolution.add("loja-aurora", url=chatwoot.url)
        chatwoot.add_inbox(12, "loja-aurora", evolution.webhook_url("loja-aurora"))
        first = Started(container, place, tmp_path / "log")
        try:
            await first.until_ready(503)
            asked = ["--evolution", evolution.url, "--apikey", evolution.apikey]
            connecting = first.run(["chatwoot-cache", "connect", *asked])
            await wait_until(lambda: connecting.poll() is not None, "it is done", timeout_s=30)
            assert connecting.returncode == 0, first.log.read_text()
        finally:
            first.process.terminate()
            assert first.process.wait(20) == 0
        (webhook,) = chatwoot.webhooks[3]

    again = Started(container, place, tmp_path / "log")
    try:
        await again.until_ready()
        assert again.post(encode(message(1)), webhook["secret"]).status_code == 200
        await place.settled()
    finally:
        again.process.terminate()
        assert again.process.wait(20) == 0


async def test_an_outage_of_redis_restarts_nothing_and_loses_no_webhook(
    container: Container, server_binary: Path, prefix: str, tmp_path: Path
) -> None:
    """Two minutes without Redis, a webhook every quarter of a second, as in compose.yaml."""
    settings = {
        "CHATWOOT_CACHE_WEBHOOK_SECRETS": json.dumps({"3": SECRET}),
        "CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR": "/var/lib/chatwoot-cache/spool",
    }
    with Server(server_binary, "--appendonly", "yes") as server:
        place = Place(server.uri, prefix)
        started = Started(container, place, tmp_path / "log", **settings)
        try:
            await started.until_ready()
            server.kill()
            sent = await _send_for(OUTAGE_S, started)
            server.start()
            await wait_until(lambda: _has_all(place, sent), "all came back", timeout_s=60)
        finally:
            started.process.terminate()
            assert started.process.wait(20) == 0
            place.redis.close()


OUTAGE_S = 120.0
EVERY_S = 0.25


async def _send_for(outage_s: float, started: Started) -> list[int]:
    """Post messages 1, 2, 3, …; each must be taken, and the container be healthy throughout."""
    sent: list[int] = []
    end = time.monotonic() + outage_s
    while time.monotonic() < end:
        number = len(sent) + 1
        answer = started.post(encode(message(number)))
        assert answer.status_code == 200, answer.text
        sent.append(number)
        if number % 40 == 1:
            assert started.health() == 0
            assert started.process.poll() is None
        await anyio.sleep(EVERY_S)
    return sent


def _has_all(place: Place, numbers: Sequence[int]) -> bool:
    keys = [place.key("loja-aurora", "message", number) for number in numbers]
    return place.redis.exists(*keys) == len(numbers)


async def test_an_image_without_a_secret_takes_no_webhook(
    container: Container, place: Place, tmp_path: Path
) -> None:
    started = Started(container, place, tmp_path / "log")
    try:
        await started.until_ready(503)
        answer = started.post(b"{}")

        assert answer.status_code == 503
        assert "CHATWOOT_CACHE_WEBHOOK_SECRETS" in answer.text
    finally:
        started.process.terminate()
        assert started.process.wait(20) == 0
