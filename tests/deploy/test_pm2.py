"""PM2 starts, reloads, stops and gives up as its users expect."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy import pm2
from tests.deploy.pm2 import PM2
from tests.e2e.place import GROUP, Place, load
from tests.servers import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.deploy


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[PM2]:
    with pm2.running(tmp_path) as running:
        yield running


def configure(folder: Path, place: Place, **others: str) -> None:
    """Write the `.env` of an Evolution 2.x, with what it has for itself."""
    settings = {
        "SERVER_PORT": "8080",
        "LOG_LEVEL": "ERROR,WARN",
        "CACHE_REDIS_ENABLED": "true",
        "CACHE_REDIS_URI": place.uri,
        "CACHE_REDIS_PREFIX_KEY": place.name,
        "CHATWOOT_CACHE_STREAM_KEY": place.stream,
        "CHATWOOT_CACHE_HTTP_PORT": str(free_port()),
        "CHATWOOT_CACHE_OPS_PORT": str(free_port()),
        **others,
    }
    (folder / ".env").write_text("".join(f"{name}={text}\n" for name, text in settings.items()))


def is_alive(port: int) -> bool:
    answer = httpx.get(f"http://127.0.0.1:{port}/livez", trust_env=False)
    return bool(answer.json() == {"status": "ok"})


def consumers(place: Place) -> set[str]:
    rows: Any = place.redis.xinfo_consumers(place.stream, GROUP)
    return {row["name"].decode() for row in rows}


async def test_start_waits_until_the_worker_is_ready(
    manager: PM2, place: Place, tmp_path: Path
) -> None:
    port = free_port()
    configure(tmp_path, place, CHATWOOT_CACHE_OPS_PORT=str(port))
    manager.start()

    assert is_alive(port)
    assert manager.states() == ["online"]
    assert [json.loads(line)["event"] for line in manager.log()][-1] == "worker.started"


async def test_env_yml_of_evolution_v1_serves_as_well(
    manager: PM2, place: Place, tmp_path: Path
) -> None:
    example = (pm2.ECOSYSTEM.parent / "env.yml.example").read_text()
    settings = yaml.safe_load(example)
    settings["CACHE"]["REDIS"] |= {"URI": place.uri, "PREFIX_KEY": place.name}
    settings["CHATWOOT_CACHE"] |= {
        "STREAM_KEY": place.stream,
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": free_port(),
        "OPS_PORT": free_port(),
    }
    (tmp_path / "env.yml").write_text(yaml.safe_dump(settings))

    manager.start()

    assert manager.states() == ["online"]
    assert consumers(place)


async def test_extra_workers_share_the_group_under_names_of_their_own(
    manager: PM2, place: Place, tmp_path: Path
) -> None:
    configure(tmp_path, place)
    manager.start(extra=2)

    host = os.uname().nodename
    assert manager.states() == ["online"] * 3
    assert consumers(place) == {host, f"{host}-0", f"{host}-1"}
    for port in (9861, 9862):
        assert is_alive(port)


async def test_a_reload_under_load_loses_nothing(
    manager: PM2, place: Place, tmp_path: Path
) -> None:
    configure(tmp_path, place)
    manager.start(extra=1)
    before = {process["pid"] for process in manager.processes()}

    with load(place) as published:
        reloading = manager.begin("reload", "all")
        await wait_until(lambda: reloading.poll() is not None, "PM2 has reloaded", timeout_s=60)
    await place.settled(timeout_s=60)

    assert reloading.returncode == 0
    assert before.isdisjoint(process["pid"] for process in manager.processes())
    assert not [n for n in published if place.document("loja-aurora", "message", n) is None]
    assert not place.letters()


async def test_stop_is_graceful_and_delete_leaves_nothing(
    manager: PM2, place: Place, tmp_path: Path
) -> None:
    configure(tmp_path, place)
    manager.start()
    with load(place):
        manager.do("stop", "chatwoot-cache")

    (process,) = manager.processes()
    assert process["pm2_env"]["status"] == "stopped"
    assert process["pm2_env"]["exit_code"] == 0
    assert not place.pending()

    manager.do("delete", "chatwoot-cache")
    assert manager.processes() == []


async def test_wrong_settings_end_as_errored_with_the_reason_and_no_storm(
    manager: PM2, place: Place, tmp_path: Path
) -> None:
    configure(tmp_path, place, CACHE_REDIS_URI="http://localhost:6379")
    manager.start()
    await wait_until(lambda: manager.states() == ["errored"], "PM2 has given up", timeout_s=60)

    lines = manager.log()
    assert len(lines) == 10
    assert all("CACHE_REDIS_URI=" in line and "must start with" in line for line in lines)


async def test_a_worker_that_was_killed_comes_back(
    manager: PM2, place: Place, tmp_path: Path
) -> None:
    configure(tmp_path, place)
    manager.start()
    (process,) = manager.processes()
    os.kill(process["pid"], signal.SIGKILL)

    def is_back() -> bool:
        (now,) = manager.processes()
        return bool(now["pid"] not in {0, process["pid"]})

    await wait_until(is_back, "PM2 has started it again", timeout_s=30)
