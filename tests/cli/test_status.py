"""The status tells how all stands, from what the servers know, and keeps on when they are away."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.e2e.process import PROGRAM, environment
from tests.events import encode, message
from tests.servers import Server, free_port
from tests.waiting import wait_until
from worker.__main__ import main
from worker.core.binding_rules import BindingResolver, Bindings
from worker.core.operations.last_event_times import last_event_ms
from worker.core.stream_entry import Entry
from worker.ingest.spool.spool_file import SpoolFile
from worker.store.admin.cache_usage import measure_usage
from worker.store.client import create_client

GROUP = "chatwoot-cache"
Status = Callable[..., dict[str, Any]]


@pytest.fixture
def settings(redis_uri: str, prefix: str) -> dict[str, str]:
    return {
        "CACHE_REDIS_URI": redis_uri,
        "CACHE_REDIS_PREFIX_KEY": prefix,
        "CHATWOOT_CACHE_STREAM_KEY": f"{prefix}-events",
    }


@pytest.fixture
def status(
    settings: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Status:
    monkeypatch.chdir(tmp_path)

    def run(**more: str) -> dict[str, Any]:
        for name, text in (settings | more).items():
            monkeypatch.setenv(name, text)
        assert main(["status", "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return run


@pytest.fixture
def raw(redis_uri: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_uri) as client:
        yield client


def test_nothing_yet_is_told_as_nothing(status: Status) -> None:
    found = status()

    assert (found["stream"], found["rates"], found["spool"]) == (None, None, None)
    assert (found["consumers"], found["instances"]) == ([], [])
    assert found["dead"]["total"] == 0


def test_everything_is_on_it(status: Status, raw: redis.Redis, prefix: str, tmp_path: Path) -> None:
    stream = f"{prefix}-events"
    now_ms = int(time.time() * 1000)
    raw.xadd(stream, {"payload": "{}"}, id=f"{now_ms - 600_000}-1")
    raw.xadd(stream, {"payload": encode(message(1, inbox_name="São Paulo: 1"))})
    raw.xgroup_create(stream, GROUP, "0")
    raw.xreadgroup(GROUP, "worker-1", {stream: ">"}, count=1)
    raw.xadd(f"{stream}:dead", {"_reason": "bad_json"})
    raw.set(f"{prefix}:chatwoot:quiet one:message:7", "{}", ex=60)
    raw.set(f"{prefix}:chatwoot:quiet one:conversation:3", "{}", ex=60)
    raw.zadd(f"{prefix}:chatwoot:quiet one:conversation:3:messages", {"7": 7})
    file = SpoolFile(tmp_path / "spool", 1 << 20, "events")
    file.open()
    file.append([b"1"])
    found = status(CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR="spool")
    file.close()

    assert found["stream"]["length"] == 2
    assert found["stream"]["pending"] == 1
    assert 600 <= found["stream"]["oldest_pending_s"] < 610
    assert found["stream"]["lag"] in {1, None}
    (consumer,) = found["consumers"]
    assert (consumer["name"], consumer["pending"]) == ("worker-1", 1)
    assert 600 <= consumer["oldest_pending_s"] < 610
    assert found["dead"] == {"total": 1, "looked_at": 1, "by_reason": {"bad_json": 1}}
    first, second = found["instances"]
    assert first["name"] == "São Paulo: 1"
    assert 0 <= first["last_event_s"] < 5
    assert second == {
        "name": "quiet one",
        "messages": 1,
        "conversations": 1,
        "last_event_s": None,
    }
    assert not found["instances_estimated"]
    assert found["spool"]["entries"] == 1


def fill(raw: redis.Redis, prefix: str) -> None:
    """Old and new entries, pending, more letters than are looked at, more instances than fit."""
    stream = f"{prefix}-events"
    raw.xadd(stream, {"payload": encode(message(1, inbox_name="loja"))}, id="1790000000000-1")
    raw.xadd(stream, {"payload": "junk"})
    raw.xgroup_create(stream, GROUP, "0")
    raw.xreadgroup(GROUP, "a worker with quite a long name, of a pod in a cluster", {stream: ">"})
    with raw.pipeline() as pipeline:
        for number in range(1100):
            reason = "bad_json" if number % 2 else "too_large"
            pipeline.xadd(f"{stream}:dead", {"_reason": reason})
        for number in range(30):
            name = f"instance {number:02} {'x' * 40}"
            pipeline.set(f"{prefix}:chatwoot:{name}:message:1", "", ex=60)
        pipeline.execute()


def test_it_fits_a_terminal_of_80_columns(
    settings: dict[str, str],
    raw: redis.Redis,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(raw, prefix)
    file = SpoolFile(tmp_path, 1 << 20, "events")
    file.open()
    file.append([b"1", b"2"])
    file.close()
    monkeypatch.chdir(tmp_path)
    spool = {"CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR": str(tmp_path), "COLUMNS": "80"}
    for name, text in (settings | spool).items():
        monkeypatch.setenv(name, text)
    assert main(["status"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80

    words = " ".join(shown.split())
    assert "2 entries, the last " in words
    assert "2 pending, the oldest" in words
    assert "1,100: " in words
    assert "of the newest 1,000" in words
    assert "2 webhooks, " in words
    assert "a worker with quite a long name, of…" in words
    assert "… and 11 more; --json shows all" in words
    assert "not recently" in words


def test_a_full_spool_is_told(
    settings: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with contextlib.closing(SpoolFile(tmp_path, 2 << 20, "events")) as file:
        file.open()
        file.append([b"1" * 500_000, b"2" * 500_000])
    monkeypatch.chdir(tmp_path)
    spool = {"SPOOL_DIR": str(tmp_path), "SPOOL_MAX_BYTES": str(1 << 20)}
    for name, text in spool.items():
        settings[f"CHATWOOT_CACHE_WEBHOOK_{name}"] = text
    for name, text in settings.items():
        monkeypatch.setenv(name, text)

    assert main(["status"]) == 0
    shown = capsys.readouterr().out
    assert "full: 2 webhooks, " in shown
    assert "; others are refused" in shown


def test_rates_are_measured(
    status: Status, raw: redis.Redis, prefix: str, settings: dict[str, str]
) -> None:
    """Events come all the while that it looks."""
    stream = f"{prefix}-events"
    raw.xadd(stream, {"payload": "{}"})
    producer = subprocess.Popen(
        [PROGRAM[0], "-c", PRODUCER, settings["CACHE_REDIS_URI"], stream],
    )
    try:
        rates = status()["rates"]
    finally:
        producer.kill()
        producer.wait()

    assert rates["added_per_s"] > 5


PRODUCER = """
import sys, time, redis
client = redis.Redis.from_url(sys.argv[1])
while True:
    client.xadd(sys.argv[2], {"payload": "{}"})
    time.sleep(0.002)
"""


def test_redis_that_is_away_is_3(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in settings.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("CACHE_REDIS_URI", f"redis://127.0.0.1:{free_port()}/0")

    assert main(["status"]) == 3


@pytest.mark.parametrize("every", ["0", "nan", "-1"])
def test_a_period_that_is_none_is_refused(
    settings: dict[str, str],
    tmp_path: Path,
    every: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CACHE_REDIS_URI", settings["CACHE_REDIS_URI"])

    assert main(["status", "--watch", f"--every={every}"]) == 2
    assert "--every must be 0.1 or more" in capsys.readouterr().err


async def test_watching_survives_an_outage_and_ends_with_ctrl_c(
    server_binary: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    """On a terminal, as somebody would look at it while something is wrong."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def says(text: bytes) -> bool:
        while True:
            try:
                shown.extend(os.read(ours, 65536))
            except BlockingIOError:
                return text in shown

    with Server(server_binary) as server:
        env = environment(settings | {"CACHE_REDIS_URI": server.uri, "TERM": "xterm"})
        watching = subprocess.Popen(
            [*PROGRAM, "status", "--watch", "--every", "0.1"],
            cwd=tmp_path,
            env=env,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        os.set_blocking(ours, False)
        try:
            await wait_until(lambda: says(b"The cache is empty."), "it shows", timeout_s=10)
            server.stop()
            await wait_until(lambda: says(b"Redis does not answer"), "it says so", timeout_s=10)
            del shown[:]
            server.start()
            await wait_until(lambda: says(b"The cache is empty."), "it shows again", timeout_s=10)
            watching.send_signal(signal.SIGINT)
            await wait_until(lambda: watching.poll() is not None, "it ends")
            assert watching.returncode == 0
        finally:
            watching.kill()
            watching.wait()
            os.close(ours)


def test_last_events_are_judged_as_the_worker_does() -> None:
    """Bound inboxes, names, stated instances; what belongs nowhere says nothing."""
    replayed = encode(message(4, inbox_id=13, inbox_name="new"))
    resolver = BindingResolver(Bindings({"3/12": "bound"}, {"bound": 3}), from_inbox_name=True)
    entries = [
        Entry(b"1000-0", {b"payload": encode(message(1, inbox_id=12, inbox_name="bound"))}),
        Entry(b"9000-0", {b"payload": encode(message(2, inbox_id=12, inbox_name="bound"))}),
        Entry(b"5000-0", {b"payload": encode(message(3, inbox_id=12, inbox_name="bound"))}),
        Entry(b"2000-0", {b"payload": encode(message(4, inbox_id=13, inbox_name="new"))}),
        Entry(b"9999-0", {b"payload": replayed, b"_id": b"2500-7"}),
        Entry(b"3000-0", {b"payload": b"junk"}),
        Entry(b"3000-1", {b"payload": encode(message(5, inbox_id=14, channel="Channel::Email"))}),
        Entry(b"3000-2", {b"payload": encode(message(6, event="contact_updated"))}),
        Entry(b"3000-3", {}),
    ]
    assert last_event_ms(entries, resolver) == {"bound": 9000, "new": 2500}


async def test_a_large_database_is_counted_in_part(redis_uri: str, prefix: str) -> None:
    """Keys come in no order, so a part of them tells about all."""
    async with create_client(redis_uri) as client:
        async with client.pipeline(transaction=False) as pipeline:
            for number in range(1, 6001):
                instance = "one" if number % 3 else "two"
                pipeline.set(f"{prefix}:chatwoot:{instance}:message:{number}", "{}", ex=60)
            await pipeline.execute()
        whole = await measure_usage(client, prefix, max_keys=10**9)
        part = await measure_usage(client, prefix, max_keys=2000)

    assert {name: kinds["message"] for name, kinds in whole.kinds.items()} == {
        "one": 4000,
        "two": 2000,
    }
    assert (whole.is_estimate, part.is_estimate) == (False, True)
    assert part.scale * part.kinds["one"]["message"] == pytest.approx(4000, rel=0.35)
