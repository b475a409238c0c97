"""`embedded://`: a server whose data outlives the worker."""

import json
import os
import signal
from pathlib import Path

import redis

from tests.e2e.place import Place
from tests.e2e.process import command, running
from tests.events import PAYLOADS
from tests.waiting import wait_until

SAMPLES = sorted(map(str, (PAYLOADS / "evolution").glob("*.json")))
INSTANCE = "loja-aurora"


def settings(place: Place) -> dict[str, str]:
    return place.settings() | {"CACHE_REDIS_URI": "embedded://.data"}


async def until_cached(directory: Path, place: Place) -> None:
    def found() -> bool:
        socket = directory / ".data" / "server.sock"
        with redis.Redis(unix_socket_path=str(socket)) as client:
            return bool(client.exists(place.key(INSTANCE, "message", 90218)))

    await wait_until(found, "the last message is cached")


async def test_what_was_cached_is_there_after_ctrl_c_and_after_kill_9(
    place: Place, tmp_path: Path
) -> None:
    async with running(tmp_path, settings(place)) as worker:
        published = command(tmp_path, settings(place), "publish", *SAMPLES)
        assert published.returncode == 0, published.stderr
        await until_cached(tmp_path, place)
        assert await worker.stop(signal.SIGINT, within_s=10) == 0
    assert b"is running" in (tmp_path / "stdout.log").read_bytes()
    # The server ended with the worker, and a command says how to start it.
    done = command(tmp_path, settings(place), "get", INSTANCE, "message", "90214")
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)
    assert b"chatwoot-cache run" in done.stderr

    async with running(tmp_path, settings(place)) as worker:
        done = command(tmp_path, settings(place), "get", INSTANCE, "messages", "1584", "--limit=1")
        assert json.loads(done.stdout)["messages"][0]["id"] == 90218
        server = int((tmp_path / ".data" / "server.pid").read_text())
        worker.process.kill()
        await worker.ended()

    async with running(tmp_path, settings(place)) as worker:
        await until_cached(tmp_path, place)
        # The server was adopted, and stops with its new owner.
        assert int((tmp_path / ".data" / "server.pid").read_text()) == server
        assert await worker.stop(within_s=10) == 0
    assert not is_alive(server)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # An orphan that ended stays a zombie until its parent waits for it.
    return "Z (zombie)" not in Path(f"/proc/{pid}/status").read_text()
