"""The read endpoints: keys, paths, answers; against a real server, over a real socket."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from msgspec.structs import replace

from tests import events
from tests.e2e.proxy import proxied
from tests.servers import Server
from tests.serving import Served, served
from tests.store.test_document_reader import agents, note, unassigned
from tests.store.test_document_writer import pending_writes
from tests.waiting import wait_until
from worker.core.cache_keys import CacheKeys
from worker.core.documents import PendingWrite
from worker.ops.metrics import Metrics
from worker.public_app import public_app
from worker.reads.api_keys import ApiKeys
from worker.reads.reads_api import ReadsApp
from worker.store.cache.document_reader import DocumentReader, InstanceReader, redis_reader
from worker.store.cache.document_writer import CacheSettings, DocumentWriter
from worker.store.client import Client, create_client

ALL = "the operator's key"
AURORA = "the key of loja-aurora"
NORTE = "the key of loja-norte"
KEYRING = ApiKeys(ALL, {"loja-aurora": [AURORA, "the old one"], "loja-norte": [NORTE]})

HOME = "/instances/loja-aurora"


@dataclass
class Reply:
    """An answer, taken apart."""

    code: int
    headers: dict[str, str]
    body: Any
    size: int


@dataclass
class Desk:
    """The endpoints at work, and the cache behind them."""

    server: Served
    cache: DocumentWriter
    metrics: Metrics
    client: Client

    async def get(self, path: str | bytes, *keys: str, method: str = "GET") -> Reply:
        """Ask for a raw path; each key as a whole header, or as one for `apikey`."""
        raw = path.encode() if isinstance(path, str) else path
        lines = [key if ": " in key else f"apikey: {key}" for key in keys]
        head = "".join(f"{line}\r\n" for line in lines).encode()
        request = b"%b %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%b\r\n"
        return parsed(await self.server.ask(request % (method.encode(), raw, head)))


def parsed(answer: bytes) -> Reply:
    """Take an answer apart; every one of ours is JSON."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}
    return Reply(int(status.split()[1]), headers, json.loads(body) if body else None, len(body))


@asynccontextmanager
async def opened(uri: str, prefix: str, **others: Any) -> AsyncIterator[Desk]:
    """Serve the cache of a prefix."""
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(create_client(uri))
        metrics = Metrics("0", 10)
        app = public_app(None, ReadsApp(KEYRING, redis_reader(own, prefix), metrics, **others))
        server = await stack.enter_async_context(served(app))
        yield Desk(server, DocumentWriter(own, CacheSettings(prefix, ttl_s=1000)), metrics, own)


@pytest.fixture
async def desk(redis_uri: str, prefix: str) -> AsyncIterator[Desk]:
    async with opened(redis_uri, prefix) as desk:
        yield desk


@pytest.fixture
async def filled(desk: Desk) -> Desk:
    """With two messages, a note between them, and a document of another instance."""
    for body in (events.message(1, source_id="WAID:3EB0"), note(2), events.message(3)):
        await desk.cache.write(pending_writes(body))
    return desk


async def test_answers_what_is_asked(filled: Desk) -> None:
    """Each endpoint, with a key as Evolution or as everybody else sends it."""
    message = await filled.get(f"{HOME}/messages/1", AURORA)
    source = await filled.get(f"{HOME}/messages?source_id=3EB0", f"authorization: Bearer {AURORA}")
    conversation = await filled.get(f"{HOME}/conversations/1584", f"Authorization: bearer {ALL}")
    messages = await filled.get(f"{HOME}/conversations/1584/messages?limit=1", f"ApiKey: {AURORA}")
    contact = await filled.get(f"{HOME}/contacts/+551100000042/messages", "the old one")

    assert [r.code for r in (message, source, conversation, messages, contact)] == [200] * 5
    assert message.body["origin"] == "contact"
    assert message.headers["cache-control"] == "no-store"
    assert source.body == message.body
    assert conversation.body["contact"]["name"] == "Marina Lopes"
    assert messages.body.pop("messages")[0]["id"] == 3
    assert messages.body == {
        "conversation_id": 1584,
        "complete": False,
        "next_before": 3,
        "human_active": True,
        "human": {"active": True, "reason": "assigned", "since": None, "until": None},
    }
    assert [m["id"] for m in contact.body["messages"]] == [1, 3]


@pytest.mark.parametrize(("query", "active"), [("", False), ("?human_window_s=7200", True)])
async def test_the_reader_says_how_long_a_message_of_a_person_counts(
    desk: Desk,
    query: str,
    active: bool,  # noqa: FBT001  (a case)
) -> None:
    await desk.cache.write(pending_writes(unassigned(agents(events.message(1), ago_s=4000))))
    for path in ("conversations/1584", "contacts/+551100000042"):
        body = (await desk.get(f"{HOME}/{path}/messages{query}", AURORA)).body

        assert body["human_active"] is body["human"]["active"] is active
        assert body["human"]["reason"] == ("agent_wrote" if active else None)


async def test_a_chat_is_an_array(filled: Desk) -> None:
    reply = await filled.get(f"{HOME}/conversations/1584/messages?format=chat&private=true", ALL)

    assert reply.body == [{"role": "user", "content": "Oi!"}] * 2


class TestKeys:
    """Who may read what."""

    @pytest.mark.parametrize(
        ("keys", "reason"),
        [
            ((), "no_key"),
            (("Authorization: Basic QWxhZGRpbg==",), "no_key"),
            (("apikey: ",), "no_key"),
            (("nonsense",), "bad_key"),
            ((AURORA.upper(),), "bad_key"),
            ((AURORA[:-1],), "bad_key"),
            ((AURORA, NORTE), "bad_key"),
            ((AURORA, f"Authorization: Bearer {ALL}"), "bad_key"),
        ],
    )
    async def test_without_one_key_that_holds_there_is_nothing(
        self, filled: Desk, keys: tuple[str, ...], reason: str
    ) -> None:
        """Whether the path makes sense or not."""
        for path in ("messages/1", "messages/0", "conversations/%zz/messages", "messages?x=1"):
            reply = await filled.get(f"{HOME}/{path}", *keys)

            assert (reply.code, reply.body["reason"]) == (401, reason)
            assert reply.headers["www-authenticate"] == "Bearer"

    async def test_the_same_key_twice_is_one_key(self, filled: Desk) -> None:
        reply = await filled.get(f"{HOME}/messages/1", AURORA, f"Authorization: Bearer {AURORA}")

        assert reply.code == 200

    async def test_anothers_instance_looks_the_same_whether_it_is_there_or_not(
        self, filled: Desk
    ) -> None:
        """In code, text and size; and nothing is looked up."""
        there = await filled.get(f"{HOME}/messages/1", NORTE)
        absent = await filled.get("/instances/loja-nirvana/messages/1", NORTE)

        assert there == absent
        assert there.code == 403
        assert reads(filled.metrics, tier="redis") == 0

    @pytest.mark.parametrize(
        "path",
        [
            "/instances/loja%2Daurora/messages/1",
            "/instances/%6Coja-aurora/messages/1",
            "/instances/loja-norte%2F..%2Floja-aurora/messages/1",
            "/instances/loja-norte/../loja-aurora/messages/1",
            "/instances/loja-norte/%2e%2e/loja-aurora/messages/1",
            "/instances/loja%252Daurora/messages/1",
            "/instances/*/messages/1",
            "/instances/loja-aurora%00/messages/1",
            "/instances/loja-%C0%AFaurora/messages/1",
            "/instances/loja-aurora%3A/messages/1",
            "//instances/loja-aurora/messages/1",
            "/instances//loja-aurora/messages/1",
            "/instances/loja-aurora;x/messages/1",
        ],
    )
    async def test_no_writing_of_a_path_opens_anothers_instance(
        self, filled: Desk, path: str
    ) -> None:
        reply = await filled.get(path, NORTE)

        assert 400 <= reply.code < 500
        assert "Oi!" not in str(reply.body)

    async def test_an_escaped_name_is_the_name(self, filled: Desk) -> None:
        assert (await filled.get("/instances/%6Coja%2Daurora/messages/1", AURORA)).code == 200

    async def test_notes_are_for_the_key_that_reads_all(self, filled: Desk) -> None:
        """And only when they are asked for."""
        assert (await filled.get(f"{HOME}/messages/2?private=true", ALL)).code == 200
        for path, key in (("messages/2", ALL), ("messages/2", AURORA), ("messages/9", ALL)):
            reply = await filled.get(f"{HOME}/{path}", key)
            assert (reply.code, reply.body["reason"]) == (404, "not_found")

        reply = await filled.get(f"{HOME}/messages/2?private=true", AURORA)
        assert (reply.code, reply.body["reason"]) == (403, "notes_forbidden")

    async def test_a_note_cannot_be_waited_for(self, filled: Desk) -> None:
        """It would tell that there is one."""
        path = f"{HOME}/conversations/1584/messages?wait_for=2&wait_ms=20"

        assert not (await filled.get(path, AURORA)).body["arrived"]
        assert (await filled.get(f"{path}&private=true", ALL)).body["arrived"]


class TestPaths:
    """What cannot be read is said to be so, clearly."""

    @pytest.mark.parametrize(
        "path",
        [
            "messages/0",
            "messages/-1",
            "messages/+1",
            "messages/1.0",
            "messages/1e3",
            "messages/9007199254740992",
            "messages/99999999999999999999999999",
            "messages/%D9%A3",
            "messages/1%2F2",
            "messages/1%00",
            "messages/%zz",
            "messages/%",
            "messages/",
            "messages/1?limit=3",
            "messages?source_id=",
            "messages?source_id=a&source_id=b",
            "messages?source_id=%00",
            "messages?source_id=%C0%AF",
            "messages?source_id=%ED%A0%80",
            "messages?source_id=" + "a" * 1025,
            "messages",
            "messages?sourceid=a",
            "conversations/1584/messages?limit=0",
            "conversations/1584/messages?limit=201",
            "conversations/1584/messages?limit=99999999999999999999",
            "conversations/1584/messages?limit=-1",
            "conversations/1584/messages?limit=",
            "conversations/1584/messages?limit=ten",
            "conversations/1584/messages?limit=1&limit=2",
            "conversations/1584/messages?before=-3",
            "conversations/1584/messages?after=9007199254740992",
            "conversations/1584/messages?private=yes",
            "conversations/1584/messages?format=xml",
            "conversations/1584/messages?wait_ms=5001",
            "conversations/1584/messages?human_window_s=0",
            "conversations/1584/messages?human_window_s=604801",
            "conversations/1584/messages?wait_for=",
            "conversations/1584/messages?unknown=1",
            "conversations/1584/messages?%FF=1",
            "conversations/1584/messages?limit=1&",
            "conversations/../messages/1",
            "contacts//messages",
            "contacts/%00/messages",
            "contacts/%ff/messages",
        ],
    )
    async def test_a_value_that_cannot_be_is_refused(self, filled: Desk, path: str) -> None:
        reply = await filled.get(f"{HOME}/{path}", ALL)

        assert 400 <= reply.code < 500
        assert reply.body["error"]

    @pytest.mark.parametrize(
        "path", ["/instances/", "/instances/a", "/instances/a/messages/1/", "/instances/a/b/c/d/e"]
    )
    async def test_no_such_path(self, desk: Desk, path: str) -> None:
        assert (await desk.get(path, ALL)).code == 404

    @pytest.mark.parametrize("name", ["a b", "loja:2", "ação", "a/b", "..", "%2F", "*", "a\tb"])
    async def test_odd_names_are_names(self, desk: Desk, name: str) -> None:
        """One level of escapes is undone, whatever the name is."""
        draft, _ = pending_writes(events.message(5))
        document = replace(draft.document, instance=name)
        await desk.cache.write([PendingWrite(document, draft.event_ms)])
        reply = await desk.get(f"/instances/{quote(name, safe='')}/messages/5", ALL)

        assert (reply.code, reply.body.get("instance")) == (200, name)

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
    async def test_only_get(self, desk: Desk, method: str) -> None:
        reply = await desk.get(f"{HOME}/messages/1", ALL, method=method)

        assert (reply.code, reply.headers["allow"]) == (405, "GET")

    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        st.lists(
            st.sampled_from(
                [b"/", b"..", b"%2e", b"%2F", b"loja-aurora", b"messages", b"1", b"%00"]
            )
            | st.binary(min_size=1, max_size=4).map(
                lambda raw: b"".join(b"%%%02X" % byte for byte in raw)
            ),
            max_size=8,
        )
    )
    async def test_any_path_is_answered_and_opens_nothing(
        self, filled: Desk, parts: list[bytes]
    ) -> None:
        """Never a 5xx, never a document with another's key."""
        reply = await filled.get(b"/instances/" + b"".join(parts), NORTE)

        assert 400 <= reply.code < 500


class TestWaiting:
    """A bot often hears of a message before we do."""

    @pytest.mark.parametrize("awaited", ["7", "3EB0ABC", "WAID:3EB0ABC"])
    async def test_the_answer_comes_with_the_message(self, filled: Desk, awaited: str) -> None:
        replies: list[Reply] = []
        path = f"{HOME}/conversations/1584/messages?limit=1&wait_for={awaited}&wait_ms=5000"

        async def ask() -> None:
            replies.append(await filled.get(path, AURORA))

        with anyio.fail_after(4):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await filled.cache.write(
                    pending_writes(events.message(7, source_id="WAID:3EB0ABC"))
                )

        assert replies[0].body["messages"][0]["id"] == 7
        assert replies[0].body["arrived"] is True
        assert replies[0].headers["x-arrived"] == "true"

    async def test_a_contact_who_was_not_known_is_waited_for_too(self, desk: Desk) -> None:
        replies: list[Reply] = []

        async def ask() -> None:
            path = f"{HOME}/contacts/5511900000042/messages?format=chat&wait_for=7&wait_ms=5000"
            replies.append(await desk.get(path, AURORA))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await desk.cache.write(pending_writes(events.message(7)))

        assert replies[0].body == [{"role": "user", "content": "Oi!"}]
        assert replies[0].headers["x-arrived"] == "true"

    async def test_what_does_not_come_is_said_not_to_have(self, filled: Desk) -> None:
        path = f"{HOME}/conversations/1584/messages?wait_for=99&wait_ms=30"
        reply = await filled.get(path, AURORA)

        assert (reply.code, reply.body["arrived"]) == (200, False)

    async def test_nobody_waits_for_a_worker_that_stops(self, redis_uri: str, prefix: str) -> None:
        path = f"{HOME}/conversations/1584/messages?wait_for=99&wait_ms=5000"
        replies: list[Reply] = []
        async with create_client(redis_uri) as own:
            app = ReadsApp(KEYRING, redis_reader(own, prefix), Metrics("0", 10))
            async with served(public_app(None, app)) as server:
                desk = Desk(
                    server, DocumentWriter(own, CacheSettings(prefix)), Metrics("0", 10), own
                )

                async def ask() -> None:
                    replies.append(await desk.get(path, ALL))

                with anyio.fail_after(3):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(ask)
                        await wait_until(lambda: app._long_poll._waiting, "it waits")
                        app.drain()

        assert replies[0].headers["x-arrived"] == "false"

    async def test_only_so_many_wait(self, filled: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("worker.reads.long_poll.MAX_WAITING", 0)
        path = f"{HOME}/conversations/1584/messages"
        late = await filled.get(f"{path}?wait_for=99", AURORA)

        assert (late.code, late.body["reason"]) == (503, "busy")
        assert (await filled.get(f"{path}?wait_for=1", AURORA)).code == 200


class Broken(DocumentReader):
    """Documents with a defect."""

    def __init__(self) -> None:
        pass

    def of(self, instance: str, *, notes: bool = True) -> InstanceReader:
        """Fail."""
        raise RuntimeError(instance, notes)


async def test_a_defect_of_ours_is_an_answer_too(caplog: pytest.LogCaptureFixture) -> None:
    """Without a word of what was asked for."""
    metrics = Metrics("0", 10)
    end = f" HTTP/1.1\r\nHost: x\r\nConnection: close\r\napikey: {ALL}\r\n\r\n".encode()
    async with served(ReadsApp(KEYRING, Broken(), metrics)) as server:
        reply = parsed(await server.ask(b"GET /instances/shop/messages/1" + end))

    assert (reply.code, reply.body["reason"]) == (500, "internal")
    assert reads(metrics, result="failed") == 1
    assert "shop" not in caplog.text


class TestOutages:
    """Redis away is said, in time."""

    async def test_a_server_that_is_gone(self, server_binary: Any, prefix: str) -> None:
        with Server(server_binary) as server:
            async with opened(server.uri, prefix) as desk:
                server.kill()
                reply = await desk.get(f"{HOME}/messages/1", ALL)

        assert (reply.code, reply.body["reason"]) == (503, "redis_unavailable")
        assert reply.headers["retry-after"] == "1"

    async def test_a_server_that_hangs(self, server_binary: Any, prefix: str) -> None:
        with Server(server_binary) as server:
            async with opened(server.uri, prefix, read_s=0.2) as desk:
                await desk.cache.write(pending_writes(events.message(1)))
                server.pause()
                with anyio.fail_after(2):
                    reply = await desk.get(f"{HOME}/messages/1", ALL)
                assert (reply.code, reply.body["reason"]) == (503, "timeout")

                server.resume()
                reply = await desk.get(f"{HOME}/messages/1", ALL)
                assert (reply.code, reply.body["id"]) == (200, 1)

    async def test_a_reply_that_was_cut_does_not_shift_the_next(
        self, redis_uri: str, prefix: str
    ) -> None:
        """A connection whose reply nobody took is never used again."""
        port = int(redis_uri.rpartition(":")[2].partition("/")[0])
        async with (
            proxied(port) as proxy,
            opened(f"redis://127.0.0.1:{proxy.port}", prefix) as desk,
        ):
            for n in (1, 2):
                await desk.cache.write(pending_writes(events.message(n)))
            proxy.swallow = b'"id":1,'
            assert (await desk.get(f"{HOME}/messages/1", ALL)).code == 503
            assert (await desk.get(f"{HOME}/messages/2", ALL)).body["id"] == 2

    async def test_a_user_without_rights(self, server_binary: Any, prefix: str) -> None:
        with Server(server_binary) as server:
            async with create_client(server.uri) as admin:
                await admin.execute_command(
                    "ACL", "SETUSER", "reader", "on", ">pw", "~other:*", "+@all"
                )
            async with opened(f"redis://reader:pw@127.0.0.1:{server.port}", prefix) as desk:
                reply = await desk.get(f"{HOME}/messages/1", ALL)

        assert (reply.code, reply.body["reason"]) == (503, "redis_refused")


async def test_rights_on_one_instance_are_enough_to_read_it(
    server_binary: Any, prefix: str
) -> None:
    """Keys that the script finds by itself are checked as well."""
    root = CacheKeys(prefix).root
    with Server(server_binary) as server:
        async with create_client(server.uri) as admin:
            cache = DocumentWriter(admin, CacheSettings(prefix, ttl_s=1000))
            await cache.write(pending_writes(events.message(1)))
            await admin.execute_command(
                *("ACL", "SETUSER", "reader", "on", ">pw", f"~{root}loja-aurora:*"),
                *(f"~{root}%accounts", "+evalsha", "+script|load", "+hget", "+zrange", "+mget"),
            )
        async with opened(f"redis://reader:pw@127.0.0.1:{server.port}", prefix) as desk:
            own = await desk.get(f"{HOME}/conversations/1584/messages", ALL)
            other = await desk.get("/instances/other/messages/1", ALL)

    assert [m["id"] for m in own.body["messages"]] == [1]
    assert other.code == 503


async def test_reads_are_counted(filled: Desk) -> None:
    for path in ("messages/1", "messages/8", "messages/0"):
        await filled.get(f"{HOME}/{path}", ALL)

    assert reads(filled.metrics, kind="message", tier="redis", result="found") == 1
    assert reads(filled.metrics, kind="message", tier="redis", result="missing") == 1
    assert reads(filled.metrics, kind="message", tier="none", result="rejected") == 1


async def test_without_a_key_there_are_no_reads() -> None:
    """And it is said which setting would change that."""
    end = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with served(public_app(None, None)) as server:
        answer = await server.ask(b"GET /instances/a/messages/1" + end)
        other = await server.ask(b"POST /chatwoot/webhook" + end)

    assert b"404" in answer
    assert b"CHATWOOT_CACHE_HTTP_API_KEY" in answer
    assert b"404" in other


def reads(metrics: Metrics, **labels: str) -> float:
    """Add up the reads of some labels."""
    return sum(
        sample.value
        for family in metrics.collect()
        for sample in family.samples
        if sample.name == "chatwoot_cache_reads_total" and labels.items() <= sample.labels.items()
    )
