"""Pairing codes and QR images: not in Redis, not on the disk, not in an answer, not in a log."""

from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.e2e.conftest import ServerStarter
from tests.e2e.place import Place
from tests.e2e.process import Worker, command, running
from tests.events import encode, message
from tests.recordings import webhooks
from tests.waiting import wait_until

KEY = "reads all"
BODIES = [*webhooks("01"), *webhooks("02")]

TELLTALE = (b"WXYZ-1234", b"Pairing", b"QRCode", b"EvolutionAPI", b"init", b"+123456", b"SIGNED-ID")
"""What the recorded bodies hold, and nothing else may."""

PATHS = (
    "messages/90001",
    "messages/90004",
    "messages/90006",
    "messages/90008",
    "conversations/1501",
    "conversations/1501/messages",
    "contacts/%2B123456/messages",
)


def stored(place: Place) -> Iterator[bytes]:
    """Every value under the place's names, in any type of key."""
    for key in place.redis.scan_iter(f"{place.name}*", count=1000):
        yield place.redis.dump(key) or b""


def leaks(*texts: bytes) -> list[bytes]:
    """What of the recorded bodies stands in a text."""
    return [told for told in TELLTALE if any(told in text for text in texts)]


def ask_all(worker: Worker) -> list[httpx.Response]:
    """Ask for everything of the conversation with the bot contact."""
    reads = worker.logged("worker.started")[-1]["reads"]
    return [
        httpx.get(f"{reads}loja-aurora/{path}", headers={"apikey": KEY}, trust_env=False)
        for path in PATHS
    ]


def assert_nothing_is_told(place: Place, worker: Worker) -> None:
    answers = ask_all(worker)

    assert {answer.status_code for answer in answers} == {404}
    assert leaks(*(answer.content for answer in answers)) == []
    assert leaks(*stored(place)) == []
    assert leaks(worker.log.encode()) == []


async def test_webhooks_are_answered_200_and_kept_nowhere(place: Place, tmp_path: Path) -> None:
    async with running(tmp_path, place.settings(HTTP_API_KEY=KEY)) as worker:
        answers = [worker.post(body) for body in BODIES]

        assert {answer.status_code for answer in answers} == {200}
        assert answers[0].json() == {"id": None}
        counted = worker.metric("webhook_requests_total", code="200", reason="bot_contact")
        assert counted == len(BODIES)
        assert place.length() == 0
        assert_nothing_is_told(place, worker)


async def test_other_producers_entries_are_deleted_once_settled(
    place: Place, tmp_path: Path
) -> None:
    """Also those that would otherwise be dead letters; others stay on the stream."""
    broken = BODIES[-1][: BODIES[-1].index(b"+123456") + 500]
    place.add(*BODIES)
    place.add(BODIES[-1], _id=b"not an id")
    place.add(BODIES[-1], expect=b"another-instance")
    place.add(broken)
    place.add(message(1))
    async with running(tmp_path, place.settings(HTTP_API_KEY=KEY)) as worker:
        await place.settled()

        await wait_until(lambda: place.length() == 1, "they are deleted")
        assert place.letters() == []
        assert worker.metric("entries_settled_total", outcome="ignored") == len(BODIES) + 3
        assert worker.metric("stream_lost_entries_total") == 0
        assert_nothing_is_told(place, worker)


async def test_one_that_was_tried_too_often_is_no_dead_letter(place: Place, tmp_path: Path) -> None:
    (entry_id,) = place.add(BODIES[-1])
    place.redis.xgroup_create(place.stream, "chatwoot-cache", "0")
    place.redis.xreadgroup("chatwoot-cache", "worker-1", {place.stream: ">"})
    place.do(f"XCLAIM {place.stream} chatwoot-cache worker-1 0 {entry_id.decode()} RETRYCOUNT 9")
    async with running(tmp_path, place.settings()):
        await wait_until(lambda: not place.pending() and not place.length(), "it is deleted")

    assert place.letters() == []


async def test_the_spool_holds_none(private: ServerStarter, tmp_path: Path) -> None:
    server, place = private()
    async with running(tmp_path, place.settings(WEBHOOK_SPOOL_DIR="spool")) as worker:
        server.stop()
        answers = [worker.post(body) for body in [*BODIES, encode(message(1, content="Olá!"))]]
        files = [path.read_bytes() for path in (tmp_path / "spool").iterdir()]
        server.start()

    assert {answer.status_code for answer in answers} == {200}
    assert any("Olá!".encode() in content for content in files)
    assert leaks(*files) == []


async def test_what_an_earlier_release_cached_is_refused_named_and_purged(
    place: Place, tmp_path: Path
) -> None:
    """`audit` names the keys, and the next worker deletes them at its start."""
    names = {"conversation:1501", "message:90006", "message:90004", "contact:123456"}
    settings = place.settings(HTTP_API_KEY=KEY, INSTANCES='{"3/12": "loja-aurora"}')
    async with running(tmp_path, settings):
        place.add(message(1, conversation_id=1501, content="QRCode"))
        place.add(message(90004, conversation_id=1501, content="init:5511900000001"))
        place.add(message(2, conversation_id=7))
        await place.settled()
    as_of_0_1_0(place)
    audit = command(tmp_path, settings, "audit", "--json")

    assert audit.returncode == 1
    assert audit.stdout.count(b'"bot_contact"') >= 3
    async with running(tmp_path, settings) as worker:
        await wait_until(lambda: worker.logged("bot_contact.purged"), "they are purged")
        assert_nothing_is_told(place, worker)
        root = place.key("loja-aurora", "")
        left = {key.decode().removeprefix(root) for key in place.found()}
        assert not names & left
        assert {"conversation:7", "message:2"} <= left
    assert command(tmp_path, settings, "audit").returncode == 0


def as_of_0_1_0(place: Place) -> None:
    """Turn conversation 1501 into one with the bot contact, as 0.1.0 would have cached it."""
    conversation = place.key("loja-aurora", "conversation", 1501)
    for key in (conversation, place.key("loja-aurora", "message", 1)):
        value: bytes = place.redis.get(key)  # type: ignore[assignment]  # not awaited here
        person = value.replace(b"5511900000042@s.whatsapp.net", b"").replace(
            b"+5511900000042", b"+123456"
        )
        assert b"+123456" in person
        place.redis.set(key, person, keepttl=True)
    place.redis.set(place.key("loja-aurora", "contact", "123456"), 1501, ex=3600)
    place.redis.xtrim(place.stream, maxlen=0, approximate=False)
