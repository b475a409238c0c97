"""Reading the cache on a real server, with and without a local tier."""

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from msgspec.structs import replace

from tests import events
from tests.core.history.test_message_links import MARKER, edit, sent
from tests.store.test_document_writer import INSTANCE, pending_writes
from tests.waiting import wait_until
from worker.core.cache_keys import CacheKeys
from worker.core.documents import PendingWrite
from worker.core.history.chat_format import as_chat
from worker.core.history.message_origin import OriginRules
from worker.core.history.message_page import MessagePage, MessageRange
from worker.store.cache.document_reader import DocumentReader, InstanceReader, redis_reader
from worker.store.cache.document_writer import CacheSettings, DocumentWriter
from worker.store.cache.invalidation_listener import InvalidationListener
from worker.store.cache.local_cache import LocalCache
from worker.store.cache.value_reader import ReadValue
from worker.store.client import Client, create_client

CONVERSATION = 1584


class CacheFixture:
    """A cache of one test's own, and a reader of it."""

    def __init__(self, client: Client, prefix: str, local: LocalCache | None) -> None:
        self.client = client
        self.keys = CacheKeys(prefix)
        self.writer = DocumentWriter(client, CacheSettings(prefix, ttl_s=1000))
        self.reader: DocumentReader = redis_reader(client, prefix, local)
        self._local = local

    async def write(self, *bodies: dict[str, Any]) -> None:
        """Write events, and wait until a local tier has received the invalidations."""
        for body in bodies:
            await self.writer.write(pending_writes(body))
        await self.wait_for_invalidations()

    async def wait_for_invalidations(self) -> None:
        """Wait until a local tier has received the invalidations of all earlier writes."""
        if self._local is None:
            return
        marker = f"{self.keys.root}marker"
        with self._local.reading() as store:
            store(marker, ReadValue(None, 0, None))
        await self.client.set(marker, "1", px=1000)
        local = self._local
        await wait_until(lambda: local.get(marker) is None, "the invalidations have arrived")

    def of(self, *, notes: bool = True) -> InstanceReader:
        """A reader for one request."""
        return self.reader.of(INSTANCE, notes=notes)

    async def page(self, *, notes: bool = True, **asked: int) -> MessagePage:
        """A page that must exist."""
        page = await self.of(notes=notes).page(CONVERSATION, MessageRange(**asked))
        assert page is not None
        return page

    async def ids(self, *, notes: bool = True, **asked: int) -> list[int]:
        """The ids of a page."""
        return [message.id for message in (await self.page(notes=notes, **asked)).messages]


@asynccontextmanager
async def tracked(uri: str, prefix: str) -> AsyncIterator[LocalCache]:
    """A local tier that receives invalidations."""
    local = LocalCache(10_000_000, 600.0)
    async with create_client(uri) as own, anyio.create_task_group() as tasks:
        tasks.start_soon(InvalidationListener(own, CacheKeys(prefix).root, local).run)
        await wait_until(lambda: is_valid(local), "the local tier is valid")
        yield local
        tasks.cancel_scope.cancel()


def is_valid(local: LocalCache) -> bool:
    """Whether a local tier is valid now."""
    return local._valid_until > time.monotonic()


@pytest.fixture(params=["redis", "local"])
async def cache(
    request: pytest.FixtureRequest, redis_uri: str, prefix: str
) -> AsyncIterator[CacheFixture]:
    async with create_client(redis_uri) as own:
        if request.param == "redis":
            yield CacheFixture(own, prefix, None)
            return
        async with tracked(redis_uri, prefix) as local:
            yield CacheFixture(own, prefix, local)


def note(message_id: int, **others: Any) -> dict[str, Any]:
    """A private note."""
    return events.message(message_id, **others) | {
        "private": True,
        "message_type": "outgoing",
        "sender": {"id": 27, "name": "Rafael", "type": "user"},
    }


def unassigned(body: dict[str, Any]) -> dict[str, Any]:
    """The same event of a conversation without an assignee."""
    body["conversation"]["meta"]["assignee"] = None
    return body


class Counted:
    """Counts the reads that it forwards."""

    def __init__(self, values: Any) -> None:
        self._values = values
        self.count = 0

    async def fetch(self, *arguments: Any) -> Any:
        self.count += 1
        return await self._values.fetch(*arguments)


@pytest.fixture
def counted(cache: CacheFixture) -> Iterator[Counted]:
    counted = Counted(cache.reader._values)
    cache.reader._values = counted  # type: ignore[assignment]
    return counted  # type: ignore[return-value]


async def test_the_last_messages_take_one_round_trip(cache: CacheFixture, counted: Counted) -> None:
    """With all that the answer says of the conversation; none where the local tier has it."""
    await cache.write(*(unassigned(events.message(n)) for n in range(1, 41)))
    assert await cache.ids(limit=20) == list(range(21, 41))
    assert counted.count == 1

    reader = cache.of()
    await reader.page(CONVERSATION, MessageRange())
    assert counted.count == (1 if reader.from_memory else 2)


async def test_origins_follow_the_rules_in_every_answer(cache: CacheFixture, prefix: str) -> None:
    """In a page, which is read by the script, and in a message."""
    body = agents(events.message(1, source_id="WAID:3EB0EF7C5FC0834DA024D6"), ago_s=60)
    await cache.write(body)
    rules = OriginRules(web_is_phone=True)
    reader = redis_reader(cache.client, prefix, rules=rules).of(INSTANCE)
    message, page = await reader.message(1), await reader.page(CONVERSATION, MessageRange())

    assert message is not None
    assert page is not None
    assert (message.origin, page.messages[0].origin) == ("phone", "phone")
    assert (await cache.page()).messages[0].origin == "api"


async def test_pages_lead_back_to_the_first_message(cache: CacheFixture) -> None:
    await cache.write(*(events.message(n) for n in range(1, 8)))
    newest = await cache.page(limit=3)
    older = await cache.page(limit=3, before=newest.next_before or 0)
    oldest = await cache.page(limit=3, before=older.next_before or 0)

    assert [[m.id for m in page.messages] for page in (newest, older, oldest)] == [
        [5, 6, 7],
        [2, 3, 4],
        [1],
    ]
    assert oldest.next_before is None
    assert not newest.complete


async def test_after_reads_on_from_where_one_was(cache: CacheFixture) -> None:
    """The oldest first; with `before` it is only a bound."""
    await cache.write(*(events.message(n) for n in range(1, 8)))

    assert await cache.ids(limit=2, after=3) == [4, 5]
    assert await cache.ids(limit=2, after=7) == []
    assert await cache.ids(limit=2, after=2, before=7) == [5, 6]
    assert (await cache.page(limit=2, after=2, before=5)).next_before is None


async def test_ids_are_exact_up_to_the_greatest(cache: CacheFixture) -> None:
    """A score is a double, which counts to 2**53."""
    greatest = 2**53 - 1
    await cache.write(*(events.message(n) for n in (greatest - 2, greatest - 1, greatest)))

    assert await cache.ids(before=greatest) == [greatest - 2, greatest - 1]
    assert await cache.ids(after=greatest - 2) == [greatest - 1, greatest]


async def test_messages_that_are_gone_do_not_count(cache: CacheFixture) -> None:
    """The limit is filled with those that are there."""
    await cache.write(*(events.message(n) for n in range(1, 101)))
    for n in range(10, 101):
        await cache.client.delete(cache.keys.message(INSTANCE, n))
    await cache.wait_for_invalidations()

    assert await cache.ids(limit=5) == [5, 6, 7, 8, 9]


async def test_notes_are_as_if_they_were_not_there(cache: CacheFixture) -> None:
    """Not in lists, not through limits, `next_before`, or what an agent did."""
    await cache.write(
        *(unassigned(events.message(n)) for n in (1, 2)),
        *(unassigned(note(n)) for n in range(3, 60)),
        unassigned(events.message(60)),
        unassigned(note(61, source_id="WAID:NOTE")),
    )
    page = await cache.page(notes=False, limit=2)

    assert [m.id for m in page.messages] == [2, 60]
    assert page.next_before == 2
    assert (await cache.page(notes=False, limit=3)).next_before is None
    assert not page.human_active
    assert await cache.ids(notes=False, after=2, before=60) == []
    assert await cache.of(notes=False).message(61) is None
    assert await cache.of(notes=False).message_by_source("WAID:NOTE") is None
    assert await cache.ids(limit=2) == [60, 61]
    assert await cache.of().message_by_source("NOTE") is not None


async def test_only_notes_below_are_nothing_below(cache: CacheFixture) -> None:
    """`next_before` would tell that there is something."""
    await cache.write(note(1), events.message(2))

    assert (await cache.page(notes=False, limit=1)).next_before is None
    assert (await cache.page(limit=1)).next_before == 2


async def test_a_message_is_found_by_whatsapps_id_of_it(cache: CacheFixture) -> None:
    """As `WAID:…` and bare; a source id of another kind by itself."""
    await cache.write(
        events.message(1, source_id="WAID:3EB0"), events.message(2, source_id="wamid.A+/=")
    )
    found = [await cache.of().message_by_source(s) for s in ("WAID:3EB0", "3EB0", "wamid.A+/=")]

    assert [m.id if m else None for m in found] == [1, 1, 2]
    assert await cache.of().message_by_source("WAID:WAID:3EB0") is None
    assert await cache.of().message_by_source("EB0") is None


async def test_a_contact_is_found_by_the_other_form_only_if_not_by_its_own(
    cache: CacheFixture,
) -> None:
    """The other form may be another person's number."""
    body = events.message(1, conversation_id=7)
    contact = body["conversation"]["meta"]["sender"]
    contact |= {"phone_number": "+551133334444", "identifier": "551133334444@s.whatsapp.net"}
    await cache.write(body)
    assert await cache.of().conversation_of("+5511933334444") == 7

    body = events.message(2, conversation_id=3)
    contact = body["conversation"]["meta"]["sender"]
    contact |= {"phone_number": "+5511933334444", "identifier": None}
    await cache.write(body)
    assert await cache.of().conversation_of("+5511933334444") == 3
    assert await cache.of().conversation_of("+551133334444") == 7


@pytest.mark.parametrize(
    ("change", "active"),
    [
        (lambda body: body, True),
        (unassigned, False),
        (lambda body: unassigned(agents(body, ago_s=60)), True),
        (lambda body: unassigned(agents(body, ago_s=4000)), False),
    ],
)
async def test_a_human_is_active_when_assigned_or_having_written_lately(
    cache: CacheFixture,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    active: bool,  # noqa: FBT001
) -> None:
    await cache.write(change(events.message(1)))
    assert (await cache.page()).human_active is active


async def test_an_agent_is_seen_behind_many_messages_of_a_bot(cache: CacheFixture) -> None:
    """Whatever the limit is."""
    recent = [
        unassigned(agents(events.message(n), ago_s=600 - n, kind="agent_bot")) for n in range(2, 90)
    ]
    await cache.write(unassigned(agents(events.message(1), ago_s=1000)), *recent)

    assert (await cache.page(limit=1)).human_active


def agents(body: dict[str, Any], *, ago_s: float, kind: str = "user") -> dict[str, Any]:
    """The same message, written by an agent some time ago."""
    at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() - ago_s))
    sender = {"id": 27, "name": "Rafael", "type": kind}
    return body | {"message_type": "outgoing", "sender": sender, "created_at": at}


async def test_what_another_account_left_is_nobodys(cache: CacheFixture) -> None:
    """Also once it is in memory, and the instance is moved then."""
    await cache.write(events.message(1))
    assert await cache.of().message(1) is not None

    await cache.client.hset(cache.keys.accounts, INSTANCE, "4")
    await cache.wait_for_invalidations()
    assert await cache.of().message(1) is None
    assert await cache.of().conversation(CONVERSATION) is None
    assert await cache.of().page(CONVERSATION, MessageRange()) is None

    await cache.client.hset(cache.keys.accounts, INSTANCE, "3")
    await cache.wait_for_invalidations()
    assert await cache.of().message(1) is not None


@pytest.mark.parametrize("kind", ["message", "conversation", "timeline", "contact", "source"])
async def test_a_key_of_another_type_is_as_if_it_was_not_there(
    cache: CacheFixture, kind: str
) -> None:
    names = {
        "message": cache.keys.message(INSTANCE, 1),
        "conversation": cache.keys.conversation(INSTANCE, CONVERSATION),
        "timeline": cache.keys.timeline(INSTANCE, CONVERSATION),
        "contact": cache.keys.contact(INSTANCE, "5511900000042"),
        "source": cache.keys.source(INSTANCE, "WAID:A"),
    }
    await cache.write(events.message(1, source_id="WAID:A"))
    await cache.client.delete(names[kind])
    await cache.client.hset(names[kind], "a", "b")
    await cache.wait_for_invalidations()
    found = {
        "message": await cache.of().message(1),
        "conversation": await cache.of().conversation(CONVERSATION),
        "timeline": await cache.ids() if kind != "conversation" else None,
        "contact": await cache.of().conversation_of("+5511900000042"),
        "source": await cache.of().message_by_source("A"),
    }

    assert not found[kind]


async def test_a_document_that_disagrees_with_its_key_is_not_read(cache: CacheFixture) -> None:
    """Copied there by hand, it would be another instance's."""
    await cache.write(events.message(1))
    stored = await cache.client.get(cache.keys.message(INSTANCE, 1))
    await cache.client.set(cache.keys.message("other", 1), stored, ex=100)
    await cache.client.set(cache.keys.message(INSTANCE, 2), stored, ex=100)
    await cache.wait_for_invalidations()

    assert await cache.reader.of("other").message(1) is None
    assert await cache.of().message(2) is None


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kinds=st.lists(st.sampled_from(["message", "note", "gone"]), max_size=40),
    limit=st.integers(1, 10),
    notes=st.booleans(),
    first=st.integers(1, 10**6),
)
async def test_pages_together_are_what_the_reader_may_see(
    redis_uri: str,
    kinds: list[str],
    limit: int,
    notes: bool,  # noqa: FBT001  (drawn)
    first: int,
) -> None:
    """Each once, in order, and no page but the last is short."""
    async with create_client(redis_uri) as own:
        cache = CacheFixture(own, f"test-{uuid.uuid4().hex}", None)
        make = {"note": note}
        bodies = [make.get(kind, events.message)(first + n) for n, kind in enumerate(kinds)]
        await cache.writer.write([write for body in bodies for write in pending_writes(body)])
        gone = [first + n for n, kind in enumerate(kinds) if kind == "gone"]
        if gone:
            await own.delete(*(cache.keys.message(INSTANCE, n) for n in gone))
        seen: list[int] = []
        before = None
        for _ in range(len(kinds) + 1):
            page = await cache.of(notes=notes).page(CONVERSATION, MessageRange(limit, before))
            if page is None:
                break
            seen = [m.id for m in page.messages] + seen
            before = page.next_before
            if before is None:
                break
            assert len(page.messages) == limit

    visible = {"message", "note"} if notes else {"message"}
    assert seen == [first + n for n, kind in enumerate(kinds) if kind in visible]


# Quotes, edits and reactions. The payloads are made up: see `tests/core/test_message_links.py`.


def members(page: MessagePage) -> dict[int, dict[str, Any]]:
    """The messages of a page by id."""
    return {message.id: json.loads(message.json) for message in page.messages}


def contents(page: MessagePage) -> list[str]:
    """The turns of a page."""
    return [turn["content"] for turn in json.loads(as_chat(page.messages, page.linked))]


async def test_links_within_a_page_take_no_further_round_trip(
    cache: CacheFixture, counted: Counted
) -> None:
    """By whatever id; nor does an edit, or a page without any."""
    bodies = [
        sent(1),
        sent(2, "Sim", reply=1),
        sent(3, "Não", external="3EB01"),
        sent(4, "👍", reply=2),
        edit(5, 1, "Olá!"),
    ]
    await cache.write(*map(unassigned, bodies))
    page = await cache.page()

    assert counted.count == 1
    assert [found["in_reply_to"] for found in members(page).values()] == [None, 1, 1, 2, 1]
    assert contents(page) == ["Olá!", "> Olá!\nSim\n[user reacted: 👍]", "> Olá!\nNão"]


@pytest.mark.parametrize("reference", [{"reply": 1}, {"external": "3EB01"}])
async def test_a_quoted_message_outside_the_page_is_read(
    cache: CacheFixture, reference: dict[str, Any]
) -> None:
    """With its newest text, by its Chatwoot id or by WhatsApp's, which leads to the edit."""
    await cache.write(sent(1), edit(2, 1, "Olá!"), sent(3), sent(4, "Sim", **reference))
    page = await cache.page(limit=2)

    assert list(members(page)) == [3, 4]
    assert members(page)[4]["in_reply_to"] == 1
    assert contents(page) == ["Oi!", "> Olá!\nSim"]


async def test_an_edit_without_its_original_is_a_turn(cache: CacheFixture) -> None:
    """It says which message it edits as long as that is cached."""
    await cache.write(sent(1), sent(2), edit(3, 1, "Olá!"))
    page = await cache.page(limit=2)
    assert (members(page)[3]["edits"], contents(page)) == (1, ["Oi!", "Olá!"])

    await cache.client.delete(cache.keys.message(INSTANCE, 1))
    await cache.wait_for_invalidations()
    page = await cache.page(limit=2)
    assert (members(page)[3].get("edits"), contents(page)) == (None, ["Oi!", "Olá!"])


@pytest.mark.parametrize("asked", [{"before": 3}, {"after": 0, "limit": 2}])
async def test_a_page_before_the_edit_has_the_new_text(
    cache: CacheFixture, counted: Counted, asked: dict[str, Any]
) -> None:
    """The edit is looked for by source id."""
    await cache.write(*map(unassigned, (sent(1), sent(2), sent(3), edit(4, 1, "a"))))
    await cache.write(unassigned(edit(5, 1, "b")))
    page = await cache.page(**asked)

    assert members(page)[1]["edited"] is True
    assert "edited" not in members(page)[2]
    assert contents(page) == ["b", "Oi!"]
    assert counted.count <= 4


async def test_single_messages_say_what_they_refer_to(cache: CacheFixture) -> None:
    await cache.write(sent(1), sent(2, "Sim", external="3EB01"), edit(3, 1, "Olá!"))
    quote, edited = await cache.of().message(2), await cache.of().message_by_source("3EB01")

    assert quote is not None
    assert edited is not None
    assert json.loads(quote.json)["in_reply_to"] == 1
    assert (edited.id, json.loads(edited.json)["edits"]) == (3, 1)


async def test_a_quoted_note_is_for_those_who_may_read_notes(cache: CacheFixture) -> None:
    """Without the right, not even its id is told."""
    await cache.write(sent(1, "secret", private=True), sent(2), sent(3, "Sim", reply=1))

    for limit in (1, 3):
        page = await cache.page(notes=False, limit=limit)
        assert members(page)[3]["in_reply_to"] is None
        assert members(await cache.page(limit=limit))[3]["in_reply_to"] == 1
        assert contents(await cache.page(limit=limit))[-1] == "Sim"
    single = await cache.of(notes=False).message(3)
    assert single is not None
    assert json.loads(single.json)["in_reply_to"] is None


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
async def test_no_page_refers_to_another_conversation_or_instance(
    redis_uri: str, data: st.DataObject
) -> None:
    """Whatever a message says of its target, and whatever has the same ids elsewhere."""
    async with create_client(redis_uri) as own:
        cache = CacheFixture(own, f"test-{uuid.uuid4().hex}", None)
        of_conversation: dict[int, int] = {}
        writes: list[PendingWrite] = []
        for number in range(1, data.draw(st.integers(2, 8)) + 1):
            place = data.draw(st.sampled_from([CONVERSATION, CONVERSATION, 7]))
            references = {
                "reply": data.draw(st.none() | st.integers(1, 9)),
                "external": data.draw(st.sampled_from([None, "A", "WAID:B", "C"])),
                "source_id": data.draw(st.sampled_from([None, "WAID:A", "WAID:B"])),
            }
            text = data.draw(st.sampled_from(["x", "👍", f"{MARKER}y"]))
            body = sent(number, f"{text}", **references)
            body["conversation"]["id"] = place
            if data.draw(st.booleans()):
                of_conversation[number] = place
                writes += pending_writes(body)
            else:
                writes += [
                    PendingWrite(replace(write.document, instance="other"), write.event_ms)
                    for write in pending_writes(body)
                ]
        await cache.writer.write(writes)
        page = await cache.of().page(CONVERSATION, data.draw(_ranges()))

    for message in page.messages if page else ():
        found = json.loads(message.json)
        for link in (found["in_reply_to"], found.get("edits"), message.links.edited_by):
            assert link is None or of_conversation[link] == CONVERSATION
    for message in page.linked if page else ():
        assert of_conversation[message.id] == message.conversation_id


def _ranges() -> st.SearchStrategy[MessageRange]:
    return st.builds(MessageRange, st.integers(1, 4), st.none() | st.integers(2, 8))
