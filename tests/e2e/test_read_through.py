"""Read-through: what the cache lacks is fetched once, in time, and for the right instance."""

import threading
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from tests.e2e.place import Place
from tests.e2e.process import Worker, running
from tests.fakes.chatwoot import Chatwoot
from tests.fakes.http import Reply
from tests.fakes.rows import ConversationRow

NOW_US = int(time.time()) * 1_000_000


@pytest.fixture
def chatwoot() -> Iterator[Chatwoot]:
    with Chatwoot() as server:
        yield server


@pytest.fixture
async def worker(place: Place, chatwoot: Chatwoot, tmp_path: Path) -> AsyncIterator[Worker]:
    settings = place.settings(
        INSTANCES='{"3/12": "loja", "3/13": "outra"}',
        HTTP_API_KEY="key",
        CHATWOOT_URL=chatwoot.url,
        CHATWOOT_TOKEN="admin-token",
        READ_THROUGH_TIMEOUT_S="1",
    )
    async with running(tmp_path, settings) as started:
        yield started


def conversation(chatwoot: Chatwoot, messages: int, *, inbox_id: int = 12) -> ConversationRow:
    row = ConversationRow(1584, 3, inbox_id, "loja", NOW_US, NOW_US, NOW_US)
    for number in range(1, messages + 1):
        row.add(number, NOW_US + number, f"text {number}")
    return chatwoot.add_conversation(row)


async def ask(worker: Worker, path: str = "conversations/1584/messages?limit=50") -> httpx.Response:
    url = worker.logged("worker.started")[-1]["reads"].rstrip("/")
    get = partial(httpx.get, headers={"apikey": "key"}, timeout=10, trust_env=False)
    return await anyio.to_thread.run_sync(get, f"{url}/loja/{path}")


async def test_many_who_miss_share_one_request_and_the_next_finds_it_cached(
    worker: Worker, chatwoot: Chatwoot
) -> None:
    conversation(chatwoot, 45).add(46, NOW_US + 46, "assigned", message_type=2)
    held = threading.Event()
    chatwoot.fault = lambda _request: (held.wait(0.1), None)[1]
    answers: list[httpx.Response] = []

    async def one() -> None:
        answers.append(await ask(worker))

    async with anyio.create_task_group() as readers:
        for _ in range(8):
            readers.start_soon(one)
    assert {answer.headers["x-read-through"] for answer in answers} == {"fetched"}
    for answer in answers:
        page = answer.json()
        assert [message["id"] for message in page["messages"]] == list(range(1, 46))
        assert (page["complete"], page["read_through"]) == (True, "fetched")
    assert len(chatwoot.requests) == 4

    again = await ask(worker)
    assert "x-read-through" not in again.headers
    assert again.json()["complete"] is True
    assert len(chatwoot.requests) == 4


@pytest.mark.parametrize(
    "reply", [Reply(502, b"<html>"), Reply(429, b"", {"Retry-After": "60"}), Reply(200, b"{}")]
)
async def test_when_chatwoot_fails_the_cache_answers_and_says_so(
    worker: Worker, chatwoot: Chatwoot, place: Place, reply: Reply
) -> None:
    row = conversation(chatwoot, 3)
    place.add(row.webhook(row.messages[2], "message_created"))
    await place.settled()
    chatwoot.fault = lambda _request: reply

    answer = await ask(worker)
    assert answer.status_code == 200
    assert [message["id"] for message in answer.json()["messages"]] == [3]
    assert (answer.json()["complete"], answer.json()["read_through"]) == (False, "failed")
    asked = len(chatwoot.requests)
    await ask(worker)
    assert len(chatwoot.requests) == asked


async def test_a_slow_chatwoot_is_not_waited_for(worker: Worker, chatwoot: Chatwoot) -> None:
    conversation(chatwoot, 3)
    over = threading.Event()
    chatwoot.fault = lambda _request: Reply(200, {}, delay=over)
    began = time.monotonic()
    answer = await ask(worker)
    over.set()

    assert time.monotonic() - began < 3
    assert (answer.status_code, answer.headers["x-read-through"]) == (404, "failed")


async def test_a_conversation_that_cannot_be_asked_for_by_itself_is_found_on_its_page(
    worker: Worker, chatwoot: Chatwoot
) -> None:
    conversation(chatwoot, 3)
    chatwoot.fault = lambda request: (
        Reply(404, {"error": "not found"}) if request.path.endswith("/1584") else None
    )

    answer = await ask(worker)
    assert [message["id"] for message in answer.json()["messages"]] == [1, 2, 3]
    assert answer.json()["complete"] is True


async def test_another_instances_conversation_is_never_brought_in(
    worker: Worker, chatwoot: Chatwoot, place: Place
) -> None:
    conversation(chatwoot, 3, inbox_id=13)

    answer = await ask(worker)
    assert (answer.status_code, answer.headers["x-read-through"]) == (404, "missing")
    assert [p for p in chatwoot.paths() if p.endswith("/messages")] == []
    assert not place.redis.xlen(place.stream)
