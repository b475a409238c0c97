"""Reads of the real process: beside the consumer, by itself, and out of its memory alone."""

import contextlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.exceptions import ResponseError

from tests import events
from tests.e2e.place import GROUP, Place
from tests.e2e.process import Worker, command, running
from tests.servers import Server
from tests.waiting import wait_until

KEY = "reads all"
PATH = "loja-aurora/conversations/1584/messages"
ALONE = {"CACHE_REDIS_ENABLED": "false", "CACHE_LOCAL_ENABLED": "true"}


def read(worker: Worker, path: str = PATH) -> tuple[int, Any]:
    """Ask for a path below the instances."""
    (started,) = worker.logged("worker.started")
    answer = httpx.get(started["reads"] + path, headers={"apikey": KEY}, trust_env=False)
    return answer.status_code, answer.json()


def texts(worker: Worker) -> list[str]:
    """The texts of the conversation, as a reader has them; none while it has no answer."""
    code, answer = read(worker)
    return [message["content"] for message in answer["messages"]] if code == 200 else []


@pytest.fixture
def alone(place: Place) -> dict[str, str]:
    """Settings of a worker whose documents are in its memory alone."""
    settings = place.settings(STREAM_REDIS_URI=place.uri, HTTP_API_KEY=KEY) | ALONE
    del settings["CACHE_REDIS_URI"]
    return settings


async def test_a_worker_answers_what_it_has_cached(place: Place, tmp_path: Path) -> None:
    """With the local tier, which is off unless it is asked for."""
    settings = place.settings(HTTP_API_KEY=KEY) | {"CACHE_LOCAL_ENABLED": "true"}
    async with running(tmp_path, settings) as worker:
        for number, text in enumerate(("Oi!", "Tudo bem?", "Olá"), 1):
            place.add(events.message(number, content=text))
            await wait_until(lambda: len(texts(worker)) == number, "it is readable")  # noqa: B023
            assert texts(worker)[-1] == text
        assert worker.metric("reads_total", tier="local") > 0
        assert worker.metric("local_cache_entries") > 0

        place.redis.delete(place.key("loja-aurora", "message", 2))
        await wait_until(lambda: texts(worker) == ["Oi!", "Olá"], "the deletion is seen")


async def test_the_local_tier_is_off_by_default(place: Place, tmp_path: Path) -> None:
    async with running(tmp_path, place.settings(HTTP_API_KEY=KEY)) as worker:
        place.add(events.message(1))
        await place.settled()
        for _ in range(2):
            assert texts(worker) == ["Oi!"]
        assert worker.metric("reads_total", tier="local") == 0


async def test_a_reader_joins_no_group_and_takes_no_webhook(place: Place, tmp_path: Path) -> None:
    """It reads what others have cached, and its stream is not even made."""
    async with running(tmp_path, place.settings(HTTP_API_KEY=KEY), "--no-consume") as worker:
        assert worker.ops("/livez").status_code == worker.ops("/readyz").status_code == 200
        assert read(worker)[0] == 404
        (started,) = worker.logged("worker.started")
        code, answer = read(worker, "../chatwoot/webhook")

        assert started["webhook"] is None
        assert (code, answer["reason"]) == (404, "not_found")
        assert not place.redis.exists(place.stream)
        assert await worker.stop() == 0


def test_a_reader_that_nobody_may_ask_is_refused(place: Place, tmp_path: Path) -> None:
    done = command(tmp_path, place.settings(), "run", "--no-consume")

    assert done.returncode == 2
    assert b"set CHATWOOT_CACHE_HTTP_API_KEY" in done.stderr


async def test_memory_alone_is_rebuilt_from_the_stream(
    place: Place, alone: dict[str, str], tmp_path: Path
) -> None:
    """By each process for itself: nothing is acknowledged, buried, or written anywhere."""
    place.add(events.message(1, source_id="WAID:A"), b"no JSON", events.message(2))
    place.add(events.message(1, source_id="WAID:A", event="message_updated", deleted=True, at=2e9))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        async with running(tmp_path / name, alone) as worker:
            await wait_until(lambda: worker.ops("/readyz").status_code == 200, "it is ready")
            code, answer = read(worker)
            found = [(message["id"], message["deleted"]) for message in answer["messages"][:2]]

            assert (code, found) == (200, [(1, True), (2, False)])
            assert read(worker, "loja-aurora/messages?source_id=A")[1]["id"] == 1
            assert read(worker, "loja-aurora/contacts/5511900000042/messages")[0] == 200
            assert worker.metric("dead_letters_total", reason="bad_json") == 1

            place.add(events.message(3 if name == "first" else 4))
            last = 3 if name == "first" else 4
            await wait_until(
                lambda: read(worker, f"loja-aurora/messages/{last}")[0] == 200,  # noqa: B023
                "what comes is readable",
            )
            assert await worker.stop() == 0

    assert place.found() == set()
    assert place.letters() == []
    with contextlib.suppress(ResponseError):
        assert place.redis.xinfo_groups(place.stream) == [], GROUP


async def test_memory_alone_keeps_instances_apart(
    place: Place, alone: dict[str, str], tmp_path: Path
) -> None:
    """By the bindings that the stream's own entries bring."""
    place.add(events.message(1), events.message(2, inbox_id=13), events.message(3, account_id=4))
    async with running(tmp_path, alone) as worker:
        await wait_until(lambda: worker.ops("/readyz").status_code == 200, "it is ready")

        assert [m["id"] for m in read(worker)[1]["messages"]] == [1]
        assert worker.metric("dead_letters_total", reason="instance_conflict") == 2


async def test_memory_alone_waits_for_its_stream(
    alone: dict[str, str], tmp_path: Path, server_binary: Path
) -> None:
    """Nothing is answered out of half a memory."""
    server = Server(server_binary)
    with Worker(tmp_path, alone | {"CHATWOOT_CACHE_STREAM_REDIS_URI": server.uri}) as worker:
        await worker.started()
        code, answer = read(worker)
        assert (code, answer["reason"]) == (503, "redis_unavailable")
        assert worker.ops("/readyz").status_code == 503
        with server:
            await wait_until(lambda: worker.ops("/readyz").status_code == 200, "it is ready")
            assert read(worker)[0] == 404
