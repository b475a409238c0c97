"""A real Prometheus scrapes real workers: every query answers, before and after a fault."""

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.deploy import files, pictures, prometheus
from tests.deploy.prometheus import Prometheus
from tests.deploy.tools import VENV, run
from tests.e2e.place import Place, load
from tests.e2e.process import Worker, running
from tests.events import encode, message
from tests.servers import Server
from tests.waiting import wait_until

pytestmark = pytest.mark.deploy

KEY = "reads-everything"


@dataclass(frozen=True)
class Watched:
    """Workers at one place, and a Prometheus that scrapes them."""

    server: Server
    place: Place
    workers: tuple[Worker, ...]
    prometheus: Prometheus

    def value(self, record: str) -> float | None:
        """What a recording rule gives now."""
        found = self.prometheus.query(files.rules("record")[record])
        return float(found[0]["value"][1]) if found else None

    def raised(self) -> set[str]:
        """The alerts whose expressions give anything now."""
        alerts = files.rules("alert").items()
        return {name for name, query in alerts if self.prometheus.query(query)}


@pytest.fixture
async def watched(server_binary: Path, prefix: str, tmp_path: Path) -> AsyncIterator[Watched]:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Server(server_binary, "--appendonly", "yes"))
        place = Place(server.uri, prefix)
        stack.enter_context(place.redis)
        workers = [
            await stack.enter_async_context(
                running(folder, place.settings(STREAM_CONSUMER=name, HTTP_API_KEY=KEY))
            )
            for name, folder in folders(tmp_path)
        ]
        targets = [str(worker.ops("/livez").url.netloc, "ascii") for worker in workers]
        watching = stack.enter_context(prometheus.running(tmp_path, targets))
        await wait_until(watching.is_ready, "Prometheus answers", timeout_s=20)
        yield Watched(server, place, tuple(workers), watching)


def folders(home: Path) -> Iterator[tuple[str, Path]]:
    for name in ("worker-1", "worker-2"):
        folder = home / name
        folder.mkdir()
        yield name, folder


@contextmanager
def busy(watched: Watched) -> Iterator[None]:
    """Events, webhooks, reads and a conflict, without a pause: something for every panel."""
    watched.place.add(message(1), message(2, inbox_id=13, inbox_name="loja-aurora"))
    over = threading.Event()
    numbers = count(1_000_000)

    def post() -> None:
        while not over.wait(0.05):
            for worker in watched.workers:
                worker.post(encode(message(next(numbers))))
                _read(worker)

    poster = threading.Thread(target=post)
    poster.start()
    try:
        with load(watched.place):
            yield
    finally:
        over.set()
        poster.join()


def _read(worker: Worker) -> None:
    url = worker.logged("worker.started")[-1]["reads"] + "loja-aurora/messages/1"
    httpx.get(url, headers={"apikey": KEY}, trust_env=False)


async def scraped(watched: Watched, seconds: int) -> None:
    """Wait until Prometheus has that many seconds of both workers' figures."""
    wanted = f"min (count_over_time(chatwoot_cache_build_info[1h])) >= {seconds}"
    await wait_until(
        lambda: watched.prometheus.query(wanted), "Prometheus has scraped", timeout_s=90
    )


async def test_promtool_finds_nothing_wrong_with_what_a_worker_shows(watched: Watched) -> None:
    watched.place.add(message(1))
    await watched.place.settled()

    exposed = watched.workers[0].ops("/metrics").text

    assert run("promtool", "check", "metrics", stdin=exposed) == ""


def test_promtool_accepts_the_rules_and_their_tests_pass() -> None:
    run("promtool", "check", "rules", files.ALERTS)
    run("promtool", "check", "config", "--syntax-only", files.ALERTS.parent / "prometheus.yaml")
    run("promtool", "test", "rules", files.ALERTS.parent / "alerts_test.yaml")


async def test_every_panel_shows_something_under_load(watched: Watched) -> None:
    """What was seen is kept as a picture, `.venv/dashboard.svg`."""
    start = time.time()
    with busy(watched):
        await scraped(watched, 40)
    end = time.time()

    seen = {
        title: {query: watched.prometheus.range(query, start, end) for query in queries}
        for title, queries in files.panels().items()
    }
    drawn = {
        title: [pictures.points(one) for found in queries.values() for one in found]
        for title, queries in seen.items()
    }
    (VENV / "dashboard.svg").write_text(pictures.svg(drawn))

    empty = [
        (title, query)
        for title, queries in seen.items()
        for query, found in queries.items()
        if not any(pictures.points(one) for one in found)
    ]
    assert not empty


async def test_every_rule_is_loaded_and_healthy(watched: Watched) -> None:
    await scraped(watched, 5)
    expected = {*files.rules("alert"), *files.rules("record")}

    await wait_until(
        lambda: watched.prometheus.rules() == dict.fromkeys(expected, "ok"),
        "Prometheus has judged every rule",
        timeout_s=30,
    )


async def test_the_rules_tell_health_from_a_fault(watched: Watched) -> None:
    with load(watched.place):
        await scraped(watched, 15)
        assert watched.raised() == set()
        assert watched.value("job:chatwoot_cache_entries_settled:rate5m")
        assert watched.value("job:chatwoot_cache_entry_age_seconds:p99_5m") is not None
        assert watched.value("job:chatwoot_cache_backlog_entries:max") is not None
        assert watched.value("job_evolution_instance:chatwoot_cache_events:increase2h")

    watched.place.add(b"no JSON", message(3, inbox_id=14, inbox_name="loja-aurora"))
    watched.workers[0].post(encode(message(4)), headers={"Content-Type": "text/plain"})
    await wait_until(
        lambda: (
            watched.raised()
            == {
                "ChatwootCacheDeadLetters",
                "ChatwootCacheInstanceConflict",
                "ChatwootCacheWebhooksRefused",
            }
        ),
        "what was refused is told",
        timeout_s=30,
    )

    watched.server.kill()
    await wait_until(
        lambda: "ChatwootCacheRedisDown" in watched.raised(), "the outage is told", timeout_s=30
    )
    watched.server.start()
    watched.workers[1].process.kill()
    await wait_until(
        lambda: (
            {"ChatwootCacheRedisDown", "ChatwootCacheDown"} & watched.raised()
            == {"ChatwootCacheDown"}
        ),
        "the lost worker is told, and that Redis is back",
        timeout_s=30,
    )
