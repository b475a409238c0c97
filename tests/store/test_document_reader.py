"""Reading the cache, with a local tier in front and without, on a real server."""

import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests import events
from tests.store.test_document_writer import INSTANCE, drafts
from tests.waiting import wait_until
from worker.core.cache_keys import CacheKeys
from worker.core.message_page import MessagePage, MessageRange
from worker.store.cache.document_reader import DocumentReader, InstanceReader, redis_reader
from worker.store.cache.document_writer import CacheSettings, DocumentWriter
from worker.store.cache.local_cache import LocalCache
from worker.store.cache.tracking import Tracking
from worker.store.cache.value_reader import ReadValue
from worker.store.client import Client, create_client

CONVERSATION = 1584


class Shelf:
    """A cache of one test's own, and a reader of it."""

    def __init__(self, client: Client, prefix: str, local: LocalCache | None) -> None:
        self.client = client
        self.keys = CacheKeys(prefix)
        self.cache = DocumentWriter(client, CacheSettings(prefix, ttl_s=1000))
        self.reader: DocumentReader = redis_reader(client, prefix, local)
        self._told = local

    async def write(self, *bodies: dict[str, Any]) -> None:
        """Write events, and return when a local tier has heard of them."""
        for body in bodies:
            await self.cache.write(drafts(body))
        await self.heard()

    async def heard(self) -> None:
        """Return when a local tier has heard of all that was written until now."""
        if self._told is None:
            return
        marker = f"{self.keys.root}heard"
        with self._told.reading() as keep:
            keep(marker, ReadValue(None, 0, None))
        await self.client.set(marker, "1", px=1000)
        told = self._told
        await wait_until(lambda: told.get(marker) is None, "the news have come")

    def of(self, *, notes: bool = True) -> InstanceReader:
        """A reader for one question."""
        return self.reader.of(INSTANCE, notes=notes)

    async def page(self, *, notes: bool = True, **asked: int) -> MessagePage:
        """A page that must be there."""
        page = await self.of(notes=notes).page(CONVERSATION, MessageRange(**asked))
        assert page is not None
        return page

    async def ids(self, *, notes: bool = True, **asked: int) -> list[int]:
        """The ids of a page."""
        return [message.id for message in (await self.page(notes=notes, **asked)).messages]


@asynccontextmanager
async def tracked(uri: str, prefix: str) -> AsyncIterator[LocalCache]:
    """A local tier that is told of every write."""
    local = LocalCache(10_000_000, 600.0)
    async with create_client(uri) as own, anyio.create_task_group() as tasks:
        tasks.start_soon(Tracking(own, CacheKeys(prefix).root, local).run)
        await wait_until(lambda: is_trusted(local), "the local tier is trusted")
        yield local
        tasks.cancel_scope.cancel()


def is_trusted(local: LocalCache) -> bool:
    """Whether a local tier answers anything now."""
    return local._valid_until > time.monotonic()


@pytest.fixture(params=["redis", "local"])
async def shelf(
    request: pytest.FixtureRequest, redis_uri: str, prefix: str
) -> AsyncIterator[Shelf]:
    async with create_client(redis_uri) as own:
        if request.param == "redis":
            yield Shelf(own, prefix, None)
            return
        async with tracked(redis_uri, prefix) as local:
            yield Shelf(own, prefix, local)


def note(message_id: int, **others: Any) -> dict[str, Any]:
    """A private note."""
    return events.message(message_id, **others) | {
        "private": True,
        "message_type": "outgoing",
        "sender": {"id": 27, "name": "Rafael", "type": "user"},
    }


def unassigned(body: dict[str, Any]) -> dict[str, Any]:
    """The same event of a conversation that nobody is assigned to."""
    body["conversation"]["meta"]["assignee"] = None
    return body


class Counted:
    """Passes questions on, and counts them."""

    def __init__(self, values: Any) -> None:
        self._values = values
        self.count = 0

    async def fetch(self, *arguments: Any) -> Any:
        self.count += 1
        return await self._values.fetch(*arguments)


@pytest.fixture
def counted(shelf: Shelf) -> Iterator[Counted]:
    counted = Counted(shelf.reader._values)
    shelf.reader._values = counted  # type: ignore[assignment]
    return counted  # type: ignore[return-value]


async def test_the_last_messages_take_one_round_trip(shelf: Shelf, counted: Counted) -> None:
    """With all that the answer says of the conversation; none where the local tier has it."""
    await shelf.write(*(unassigned(events.message(n)) for n in range(1, 41)))
    assert await shelf.ids(limit=20) == list(range(21, 41))
    assert counted.count == 1

    reader = shelf.of()
    await reader.page(CONVERSATION, MessageRange())
    assert counted.count == (1 if reader.from_memory else 2)


async def test_pages_lead_back_to_the_first_message(shelf: Shelf) -> None:
    await shelf.write(*(events.message(n) for n in range(1, 8)))
    newest = await shelf.page(limit=3)
    older = await shelf.page(limit=3, before=newest.next_before or 0)
    oldest = await shelf.page(limit=3, before=older.next_before or 0)

    assert [[m.id for m in page.messages] for page in (newest, older, oldest)] == [
        [5, 6, 7],
        [2, 3, 4],
        [1],
    ]
    assert oldest.next_before is None
    assert not newest.complete


async def test_after_reads_on_from_where_one_was(shelf: Shelf) -> None:
    """The oldest first; with `before` it is only a bound."""
    await shelf.write(*(events.message(n) for n in range(1, 8)))

    assert await shelf.ids(limit=2, after=3) == [4, 5]
    assert await shelf.ids(limit=2, after=7) == []
    assert await shelf.ids(limit=2, after=2, before=7) == [5, 6]
    assert (await shelf.page(limit=2, after=2, before=5)).next_before is None


async def test_ids_are_exact_up_to_the_greatest(shelf: Shelf) -> None:
    """A score is a double, which counts to 2**53."""
    greatest = 2**53 - 1
    await shelf.write(*(events.message(n) for n in (greatest - 2, greatest - 1, greatest)))

    assert await shelf.ids(before=greatest) == [greatest - 2, greatest - 1]
    assert await shelf.ids(after=greatest - 2) == [greatest - 1, greatest]


async def test_messages_that_are_gone_do_not_count(shelf: Shelf) -> None:
    """The limit is filled with those that are there."""
    await shelf.write(*(events.message(n) for n in range(1, 101)))
    for n in range(10, 101):
        await shelf.client.delete(shelf.keys.message(INSTANCE, n))
    await shelf.heard()

    assert await shelf.ids(limit=5) == [5, 6, 7, 8, 9]


async def test_notes_are_as_if_they_were_not_there(shelf: Shelf) -> None:
    """Not in lists, not through limits, `next_before`, or what an agent did."""
    await shelf.write(
        *(unassigned(events.message(n)) for n in (1, 2)),
        *(unassigned(note(n)) for n in range(3, 60)),
        unassigned(events.message(60)),
        unassigned(note(61, source_id="WAID:NOTE")),
    )
    page = await shelf.page(notes=False, limit=2)

    assert [m.id for m in page.messages] == [2, 60]
    assert page.next_before == 2
    assert (await shelf.page(notes=False, limit=3)).next_before is None
    assert not page.human_active
    assert await shelf.ids(notes=False, after=2, before=60) == []
    assert await shelf.of(notes=False).message(61) is None
    assert await shelf.of(notes=False).message_by_source("WAID:NOTE") is None
    assert await shelf.ids(limit=2) == [60, 61]
    assert await shelf.of().message_by_source("NOTE") is not None


async def test_only_notes_below_are_nothing_below(shelf: Shelf) -> None:
    """`next_before` would tell that there is something."""
    await shelf.write(note(1), events.message(2))

    assert (await shelf.page(notes=False, limit=1)).next_before is None
    assert (await shelf.page(limit=1)).next_before == 2


async def test_a_message_is_found_by_whatsapps_id_of_it(shelf: Shelf) -> None:
    """As `WAID:…` and bare; a source id of another kind by itself."""
    await shelf.write(
        events.message(1, source_id="WAID:3EB0"), events.message(2, source_id="wamid.A+/=")
    )
    found = [await shelf.of().message_by_source(s) for s in ("WAID:3EB0", "3EB0", "wamid.A+/=")]

    assert [m.id if m else None for m in found] == [1, 1, 2]
    assert await shelf.of().message_by_source("WAID:WAID:3EB0") is None
    assert await shelf.of().message_by_source("EB0") is None


async def test_a_contact_is_found_by_the_other_form_only_if_not_by_its_own(shelf: Shelf) -> None:
    """The other form may be another person's number."""
    body = events.message(1, conversation_id=7)
    contact = body["conversation"]["meta"]["sender"]
    contact |= {"phone_number": "+551133334444", "identifier": "551133334444@s.whatsapp.net"}
    await shelf.write(body)
    assert await shelf.of().conversation_of("+5511933334444") == 7

    body = events.message(2, conversation_id=3)
    contact = body["conversation"]["meta"]["sender"]
    contact |= {"phone_number": "+5511933334444", "identifier": None}
    await shelf.write(body)
    assert await shelf.of().conversation_of("+5511933334444") == 3
    assert await shelf.of().conversation_of("+551133334444") == 7


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
    shelf: Shelf,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    active: bool,  # noqa: FBT001
) -> None:
    await shelf.write(change(events.message(1)))
    assert (await shelf.page()).human_active is active


async def test_an_agent_is_seen_behind_many_messages_of_a_bot(shelf: Shelf) -> None:
    """Whatever the limit is."""
    recent = [
        unassigned(agents(events.message(n), ago_s=600 - n, kind="agent_bot")) for n in range(2, 90)
    ]
    await shelf.write(unassigned(agents(events.message(1), ago_s=1000)), *recent)

    assert (await shelf.page(limit=1)).human_active


def agents(body: dict[str, Any], *, ago_s: float, kind: str = "user") -> dict[str, Any]:
    """The same message, written by an agent some time ago."""
    at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() - ago_s))
    sender = {"id": 27, "name": "Rafael", "type": kind}
    return body | {"message_type": "outgoing", "sender": sender, "created_at": at}


async def test_what_another_account_left_is_nobodys(shelf: Shelf) -> None:
    """Also once it is in memory, and the instance is moved then."""
    await shelf.write(events.message(1))
    assert await shelf.of().message(1) is not None

    await shelf.client.hset(shelf.keys.accounts, INSTANCE, "4")
    await shelf.heard()
    assert await shelf.of().message(1) is None
    assert await shelf.of().conversation(CONVERSATION) is None
    assert await shelf.of().page(CONVERSATION, MessageRange()) is None

    await shelf.client.hset(shelf.keys.accounts, INSTANCE, "3")
    await shelf.heard()
    assert await shelf.of().message(1) is not None


@pytest.mark.parametrize("kind", ["message", "conversation", "timeline", "contact", "source"])
async def test_a_key_of_another_type_is_as_if_it_was_not_there(shelf: Shelf, kind: str) -> None:
    names = {
        "message": shelf.keys.message(INSTANCE, 1),
        "conversation": shelf.keys.conversation(INSTANCE, CONVERSATION),
        "timeline": shelf.keys.timeline(INSTANCE, CONVERSATION),
        "contact": shelf.keys.contact(INSTANCE, "5511900000042"),
        "source": shelf.keys.source(INSTANCE, "WAID:A"),
    }
    await shelf.write(events.message(1, source_id="WAID:A"))
    await shelf.client.delete(names[kind])
    await shelf.client.hset(names[kind], "a", "b")
    await shelf.heard()
    found = {
        "message": await shelf.of().message(1),
        "conversation": await shelf.of().conversation(CONVERSATION),
        "timeline": await shelf.ids() if kind != "conversation" else None,
        "contact": await shelf.of().conversation_of("+5511900000042"),
        "source": await shelf.of().message_by_source("A"),
    }

    assert not found[kind]


async def test_a_document_that_disagrees_with_its_key_is_not_read(shelf: Shelf) -> None:
    """Copied there by hand, it would be another instance's."""
    await shelf.write(events.message(1))
    stored = await shelf.client.get(shelf.keys.message(INSTANCE, 1))
    await shelf.client.set(shelf.keys.message("other", 1), stored, ex=100)
    await shelf.client.set(shelf.keys.message(INSTANCE, 2), stored, ex=100)
    await shelf.heard()

    assert await shelf.reader.of("other").message(1) is None
    assert await shelf.of().message(2) is None


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
        shelf = Shelf(own, f"test-{uuid.uuid4().hex}", None)
        make = {"note": note}
        bodies = [make.get(kind, events.message)(first + n) for n, kind in enumerate(kinds)]
        await shelf.cache.write([draft for body in bodies for draft in drafts(body)])
        gone = [first + n for n, kind in enumerate(kinds) if kind == "gone"]
        if gone:
            await own.delete(*(shelf.keys.message(INSTANCE, n) for n in gone))
        seen: list[int] = []
        before = None
        for _ in range(len(kinds) + 1):
            page = await shelf.of(notes=notes).page(CONVERSATION, MessageRange(limit, before))
            if page is None:
                break
            seen = [m.id for m in page.messages] + seen
            before = page.next_before
            if before is None:
                break
            assert len(page.messages) == limit

    visible = {"message", "note"} if notes else {"message"}
    assert seen == [first + n for n, kind in enumerate(kinds) if kind in visible]
