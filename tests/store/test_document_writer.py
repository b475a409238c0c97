"""Documents in Redis, against a real server."""

import re
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

import anyio
import msgspec
import pytest

from tests import events
from tests.reading import Documents
from tests.servers import Server
from worker.core import chatwoot_event
from worker.core.cache_keys import CacheKeys
from worker.core.coalescer import WriteResult
from worker.core.contact_identifiers import index_identifiers
from worker.core.documents import Conversation, Message, PendingWrite, encode
from worker.core.merge import is_created_with_source
from worker.core.stream_entry import Entry, read_envelope
from worker.errors import RedisUnavailable
from worker.store.cache import document_writer
from worker.store.cache.document_writer import CacheSettings, DocumentWriter
from worker.store.client import Client, create_client

INSTANCE = "loja-aurora"
NOW_MS = int(time.time() * 1000)


def pending_writes(
    body: Mapping[str, Any], *, ms: int = NOW_MS, sequence: int = 0
) -> list[PendingWrite]:
    """Return the writes of one event, whose entry was added at `ms`."""
    entry = Entry(f"{ms}-{sequence}".encode(), {b"payload": events.encode(body)})
    event = chatwoot_event.decode_event(entry.fields[b"payload"])
    assert event is not None
    said = read_envelope(entry)
    documents = chatwoot_event.build_documents(event, said, chatwoot_event.Destination(INSTANCE, 3))
    return [PendingWrite(document, said.ms) for document in documents if document is not None]


@pytest.fixture
async def cache(redis_uri: str, prefix: str) -> AsyncIterator[DocumentWriter]:
    async with create_client(redis_uri) as own:
        yield DocumentWriter(own, CacheSettings(prefix, ttl_s=1000, conversation_messages=3))


@pytest.fixture
def reader(client: Client, prefix: str) -> Documents:
    return Documents(client, prefix)


@pytest.fixture
def keys(prefix: str) -> CacheKeys:
    return CacheKeys(prefix)


async def write(cache: DocumentWriter, *bodies: Mapping[str, Any], **when: Any) -> list[str]:
    answers: list[str] = []
    for body in bodies:
        answers += (await cache.write(pending_writes(body, **when))).outcomes
    return answers


async def test_writes_every_key_with_a_time_to_live(
    cache: DocumentWriter, client: Client, prefix: str, keys: CacheKeys
) -> None:
    """Documents, timeline and pointers, in the same step."""
    body = events.message(source_id="WAID:AB", status="sent")
    body["conversation"]["meta"]["sender"]["identifier"] = "123@lid"
    answers = await write(cache, body)
    names = {name.decode() for name in await client.keys(f"{prefix}:*")}

    assert answers == ["applied", "applied"]
    assert names == {
        keys.message(INSTANCE, 90214),
        keys.source(INSTANCE, "WAID:AB"),
        keys.conversation(INSTANCE, 1584),
        keys.timeline(INSTANCE, 1584),
        keys.contact(INSTANCE, "5511900000042"),
        keys.contact(INSTANCE, "123@lid"),
    }
    assert all([0 < await client.ttl(name) <= 1000 for name in names])


async def test_the_same_event_again_is_stale(cache: DocumentWriter) -> None:
    """Equal revisions write nothing."""
    body = events.message()

    assert await write(cache, body, body) == ["applied", "applied", "stale", "stale"]


async def test_an_earlier_state_never_replaces_a_later_one(
    cache: DocumentWriter, reader: Documents
) -> None:
    """Whatever the order of arrival."""
    late = events.message(content="new", at=1_790_863_900.0, event="message_updated")
    early = events.message(content="old", at=1_790_863_300.0)
    answers = await write(cache, late, early)
    message = await reader.message(INSTANCE, 90214)

    assert answers == ["applied", "applied", "stale", "stale"]
    assert message is not None
    assert message.content == "new"


async def test_the_last_of_a_large_batch_is_compared_like_the_first(
    cache: DocumentWriter, reader: Documents, client: Client, keys: CacheKeys
) -> None:
    """The script reads some documents at a time: what stands, what it points to, and its type."""
    numbers = range(1, 121)

    def batch(at: float, content: str) -> list[PendingWrite]:
        bodies = [
            events.message(
                n, conversation_id=n, source_id=f"WAID:{n}", at=at, content=content, status="sent"
            )
            for n in numbers
        ]
        return [pending for body in bodies for pending in pending_writes(body)]

    await cache.write(batch(1_790_863_300.0, "first"))
    for n in numbers:
        await client.set(keys.source(INSTANCE, f"WAID:{n}"), 1000 + n)
    for n in (30, 120):
        await client.delete(keys.conversation(INSTANCE, n))
        await client.hset(keys.conversation(INSTANCE, n), "of", "others")
    newer = (await cache.write(batch(1_790_863_900.0, "second"))).outcomes
    older = (await cache.write(batch(1_790_863_600.0, "third"))).outcomes

    wrong = [2 * n - 1 for n in (30, 120)]
    assert [i for i, answer in enumerate(newer) if answer == "wrong_type"] == wrong
    assert [answer for i, answer in enumerate(newer) if i not in wrong] == 238 * ["applied"]
    assert [answer for i, answer in enumerate(older) if i not in wrong] == 238 * ["stale"]
    messages = [await reader.message(INSTANCE, n) for n in numbers]
    assert {message and message.content for message in messages} == {"second"}
    pointers = await client.mget([keys.source(INSTANCE, f"WAID:{n}") for n in numbers])
    assert [int(pointer or 0) for pointer in pointers] == [1000 + n for n in numbers]


async def test_a_newer_body_and_a_newer_status_are_merged_by_the_script(
    cache: DocumentWriter, reader: Documents
) -> None:
    """An update of a message that is not its conversation's latest says nothing of its status."""
    await write(cache, events.message(content="first", status="delivered", at=1_790_863_300.0))
    newer = events.message(content="edited", at=1_790_863_900.0, event="message_updated")
    written = await cache.write(pending_writes(newer))
    message = await reader.message(INSTANCE, 90214)

    assert written == WriteResult(["applied", "applied"], 0)
    assert message is not None
    assert (message.content, message.status) == ("edited", "delivered")


async def test_a_tombstone_whose_status_moves_on_lives_as_long(
    cache: DocumentWriter, reader: Documents, client: Client, keys: CacheKeys
) -> None:
    """The body that stands decides, not the one that came."""
    deletion = events.message(
        status="sent", event="message_updated", deleted=True, at=1_790_863_900.0
    )
    await write(cache, deletion)
    written = await cache.write(pending_writes(events.message(status="read", at=1_790_863_300.0)))
    message = await reader.message(INSTANCE, 90214)

    assert written == WriteResult(["applied", "stale"], 0)
    assert message is not None
    assert (message.deleted, message.status) == (True, "read")
    assert await client.ttl(keys.message(INSTANCE, 90214)) > 86_400


def test_scripts_cut_documents_by_the_order_of_their_members() -> None:
    """A member that is added or moved needs a look at the patterns; see `write_documents.lua`."""
    head = ("revision", "instance", "account_id", "inbox_id")
    tail = ("private", "deleted", "status", "created_at", "updated_at", "sender", "attachments")
    middle = (
        *("conversation_id", "id", "source_id", "message_type"),
        *("content_type", "content", "content_attributes"),
    )
    assert Message.__struct_fields__ == (*head, *middle, *tail)
    assert Conversation.__struct_fields__[:4] == head

    folder = Path(document_writer.__file__).parent
    write, erase = ((folder / f"{n}_documents.lua").read_text() for n in ("write", "erase"))
    (pattern,) = re.findall(r"'\^\(\.\*,(.+)\$'", write)
    assert tuple(re.findall(r'"(\w+)":', pattern)) == tail[:-1]
    (pattern,) = re.findall(r"local head = '(.+)", erase)
    assert tuple(re.findall(r'"(\w+)":', pattern)) == head
    assert """',"inbox_id":'""" in write
    assert re.findall(r"""find\(document, ',"(\w+)":'""", write)[1:] == [
        "source_id",
        "message_type",
    ]


async def test_states_that_know_different_things_are_merged(
    cache: DocumentWriter, reader: Documents
) -> None:
    """The newer body does not lose the older one's status and source id."""
    known = events.message(source_id="WAID:A", status="delivered", at=1_790_863_300.0)
    newer = events.message(content="edited", at=1_790_863_900.0, event="message_updated")
    await write(cache, known)
    written = await cache.write(pending_writes(newer))
    message = await reader.message(INSTANCE, 90214)

    assert written.conflicts == 1
    assert message is not None
    assert (message.content, message.status, message.source_id) == ("edited", "delivered", "WAID:A")


@pytest.mark.parametrize("status", [None, "read"])
@pytest.mark.parametrize("is_late", [False, True])
async def test_a_source_id_of_creation_is_kept_by_the_script(
    cache: DocumentWriter,
    reader: Documents,
    status: str | None,
    is_late: bool,  # noqa: FBT001  (a case)
) -> None:
    """Updates rank below it, so each would take a second round trip."""
    created = events.message(source_id="WAID:A", status="sent", at=1_790_863_300.0)
    updated = events.message(
        content="edited",
        source_id="WAID:A",
        status=status,
        at=1_790_863_900.0,
        event="message_updated",
    )
    bodies = [updated, created] if is_late else [created, updated]
    answers = [await cache.write(pending_writes(body)) for body in bodies]
    message = await reader.message(INSTANCE, 90214)

    assert [(answer.outcomes[0], answer.conflicts) for answer in answers] == [("applied", 0)] * 2
    assert message is not None
    assert (message.content, message.status) == ("edited", status or "sent")
    assert is_created_with_source(message.revision)


async def test_another_source_id_than_that_of_creation_is_not_taken(
    cache: DocumentWriter, reader: Documents
) -> None:
    await write(cache, events.message(source_id="WAID:A", at=1_790_863_300.0))
    other = events.message(source_id="WAID:B", at=1_790_863_900.0, event="message_updated")
    written = await cache.write(pending_writes(other))
    message = await reader.message_by_source(INSTANCE, "WAID:A")

    assert written.conflicts == 1
    assert message is not None
    assert message.source_id == "WAID:A"
    assert await reader.message_by_source(INSTANCE, "WAID:B") is None


async def test_many_writers_converge(cache: DocumentWriter, reader: Documents) -> None:
    """Concurrent writers of one document end in the join of all they know."""
    statuses = ["sent", "delivered", "read"]
    bodies = [
        events.message(content=f"v{n}", at=1_790_863_300.0 + n, status=statuses[n % 3])
        for n in range(30)
    ]
    bodies += [events.message(source_id="WAID:A", at=1_790_863_000.0)]
    async with anyio.create_task_group() as tasks:
        for body in bodies:
            tasks.start_soon(write, cache, body)
    message = await reader.message(INSTANCE, 90214)

    assert message is not None
    assert (message.content, message.status, message.source_id) == ("v29", "read", "WAID:A")


async def test_nothing_to_write_asks_for_no_version(cache: DocumentWriter) -> None:
    """A batch of ignored events has no documents, so moved inboxes do not matter."""
    assert (await cache.write([], b"another")).outcomes == []


async def test_a_deleted_text_does_not_return(
    cache: DocumentWriter, reader: Documents, client: Client, keys: CacheKeys
) -> None:
    """A tombstone outlives by a day what could bring the text back."""
    deletion = events.message(deleted=True, at=1_790_863_300.0, event="message_updated")
    later = events.message(content="secret", at=1_790_863_900.0, event="message_updated")
    await write(cache, events.message(content="secret"), deletion, later)
    message = await reader.message(INSTANCE, 90214)

    assert message is not None
    assert message.deleted
    assert message.content is None
    assert message.attachments == []
    assert 1000 < await client.ttl(keys.message(INSTANCE, 90214)) <= 1000 + 86_400


async def test_an_old_entry_updates_but_never_creates(cache: DocumentWriter) -> None:
    """Beyond the time to live an event may not bring back what expired, save a deletion."""
    old_ms = NOW_MS - 1_001_000
    deletion = events.message(7, deleted=True, event="message_updated")

    assert await write(cache, events.message(), ms=old_ms) == ["stale", "stale"]
    assert await write(cache, deletion, ms=old_ms) == ["applied", "stale"]
    await write(cache, events.message(at=1_790_863_000.0))
    assert await write(cache, events.message(at=1_790_863_500.0), ms=old_ms) == [
        "applied",
        "applied",
    ]


async def test_the_timeline_keeps_the_newest_in_order(
    cache: DocumentWriter, reader: Documents, client: Client, keys: CacheKeys
) -> None:
    """By message id, as many as the setting says."""
    await write(cache, *[events.message(n) for n in (5, 1, 4, 2, 3)])

    assert await client.zrange(keys.timeline(INSTANCE, 1584), 0, -1) == [b"3", b"4", b"5"]
    assert [m.id for m in await reader.messages(INSTANCE, 1584, 2)] == [4, 5]


async def test_pointers_keep_the_greater_id(cache: DocumentWriter, reader: Documents) -> None:
    """The newest conversation of a contact, the newest message of a source id."""
    await write(cache, events.message(9, conversation_id=1600, source_id="WAID:S"))
    await write(cache, events.message(8, conversation_id=1584, source_id="WAID:S"))
    message = await reader.message_by_source(INSTANCE, "WAID:S")

    assert await reader.conversation_of(INSTANCE, "+55 11 90000-0042") == 1600
    assert await reader.conversation_of(INSTANCE, "5511900000042@s.whatsapp.net") == 1600
    assert message is not None
    assert message.id == 9


@pytest.mark.parametrize("value", [b"", b"x", b"inf", b"1e9", b"0xFFFFFFFF", b"9" * 17, b" 99999"])
async def test_a_pointer_to_no_id_is_overwritten(
    cache: DocumentWriter, client: Client, keys: CacheKeys, value: bytes
) -> None:
    """Or it would stand for good, since every event renews it."""
    key = keys.source(INSTANCE, "WAID:S")
    await client.set(key, value)
    await write(cache, events.message(9, source_id="WAID:S"))

    assert await client.get(key) == b"9"


async def test_contacts_without_a_number_are_found_by_identifier(
    cache: DocumentWriter, reader: Documents
) -> None:
    """Groups and hidden numbers."""
    body = events.sample("08")
    await write(cache, body, events.sample("09"))

    assert await reader.conversation_of(INSTANCE, "120363020000000001@g.us") == 1585
    assert await reader.conversation_of(INSTANCE, "211234567890123@lid") == 1586
    assert await reader.conversation_of(INSTANCE, "120363020000000001") is None


@pytest.mark.parametrize("phone_number", [None, "+551190000042"])
async def test_a_contact_whose_number_differs_is_found_by_its_jid(
    cache: DocumentWriter, reader: Documents, phone_number: str | None
) -> None:
    """As with Brazil's ninth digit, which a number may lack."""
    body = events.message()
    contact = body["conversation"]["meta"]["sender"]
    contact |= {"identifier": "5511900000042@s.whatsapp.net", "phone_number": phone_number}
    await write(cache, body)

    assert await reader.conversation_of(INSTANCE, "5511900000042@s.whatsapp.net") == 1584
    if phone_number:
        assert await reader.conversation_of(INSTANCE, phone_number) == 1584


@pytest.mark.parametrize("place", ["document", "timeline", "pointer"])
async def test_a_key_of_another_type_fails_its_document_alone(
    cache: DocumentWriter, client: Client, keys: CacheKeys, place: str
) -> None:
    """Nothing of it is written; its neighbours are."""
    key = {
        "document": keys.message(INSTANCE, 90214),
        "timeline": keys.timeline(INSTANCE, 1584),
        "pointer": keys.source(INSTANCE, "WAID:A"),
    }[place]
    await (client.set(key, "x") if place == "timeline" else client.rpush(key, "x"))
    written = await cache.write(
        [
            *pending_writes(events.message(source_id="WAID:A")),
            *pending_writes(events.message(7, conversation_id=2)),
        ]
    )

    assert written.outcomes == ["wrong_type", "applied", "applied", "applied"]
    assert place == "document" or await client.get(keys.message(INSTANCE, 90214)) is None


@pytest.mark.parametrize("held", [None, b"7"], ids=["new", "held"])
@pytest.mark.parametrize("kind", ["message", "conversation"])
async def test_a_key_of_another_type_leaves_the_other_keys_as_they_were(
    cache: DocumentWriter, client: Client, keys: CacheKeys, kind: str, held: bytes | None
) -> None:
    """Of all that a document is written to, the last one is of another type."""
    body = events.message(source_id="WAID:A")
    contact = "211234567890123@lid"
    body["conversation"]["meta"]["sender"] |= {"identifier": contact, "phone_number": "+5511"}
    message, conversation = pending_writes(body)
    of_message = kind == "message"
    pointer = keys.source(INSTANCE, "WAID:A") if of_message else keys.contact(INSTANCE, "5511")
    last = keys.timeline(INSTANCE, 1584) if of_message else keys.contact(INSTANCE, contact)
    await client.hset(last, "not", "ours")
    if held:
        await client.set(pointer, held)
    written = await cache.write([message if of_message else conversation])

    assert written.outcomes == ["wrong_type"]
    assert await client.get(pointer) == held
    own = keys.message(INSTANCE, 90214) if of_message else keys.conversation(INSTANCE, 1584)
    assert not await client.exists(own)
    assert await client.hgetall(last) == {b"not": b"ours"}


async def test_contacts_of_one_batch_point_to_the_greatest_conversation(
    cache: DocumentWriter, client: Client, keys: CacheKeys
) -> None:
    """Whatever their order: the script reads all pointers before it writes any."""
    many = [pending_writes(events.message(n, conversation_id=n))[-1] for n in (5, 9, 7)]
    (name,) = index_identifiers(cast("Conversation", many[0].document).contact)
    written = await cache.write(many)

    assert written.outcomes == ["applied"] * 3
    assert await client.get(keys.contact(INSTANCE, name)) == b"9"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b'{"revision":"123"}',
        b'{"revision":"' + b"9" * 156 + b'"',
        b'{"revision":"' + b"9" * 156 + b'","id":"not ours"}',
        b'{"revision":"' + b"9" * 52 + b'","instance":"x"}',
        b'{"revision":"' + b"9" * 156 + b'","instance":"x"',
        # Of ours by its looks, newer in part, but of a shape that this version cannot read.
        b'{"revision":"' + b"9" * 52 + b"0" * 104 + b'","instance":"x","account_id":3,"id":"text"}',
        b"\xff" * 300,
    ],
)
async def test_a_value_that_is_not_ours_is_overwritten(
    cache: DocumentWriter, reader: Documents, client: Client, keys: CacheKeys, value: bytes
) -> None:
    """Even one that looks like a document, but cannot be decoded."""
    await client.set(keys.message(INSTANCE, 90214), value)

    assert await write(cache, events.message(source_id="WAID:A")) == ["applied", "applied"]
    assert isinstance(await reader.message(INSTANCE, 90214), Message)


async def test_an_old_entry_creates_nothing_over_a_value_that_is_not_ours(
    cache: DocumentWriter, client: Client, keys: CacheKeys
) -> None:
    """What is overwritten is created: the text of an old entry may have been deleted since."""
    await client.set(keys.message(INSTANCE, 90214), b"not ours")
    deletion = events.message(deleted=True, event="message_updated")

    assert await write(cache, events.message(), ms=NOW_MS - 1_001_000) == ["stale", "stale"]
    assert await client.get(keys.message(INSTANCE, 90214)) == b"not ours"
    assert await write(cache, deletion, ms=NOW_MS - 1_001_000) == ["applied", "stale"]


async def test_a_document_is_read_as_it_was_written(
    cache: DocumentWriter, reader: Documents, client: Client, keys: CacheKeys
) -> None:
    """Byte for byte; the revision is its first member."""
    message, conversation = (pending.document for pending in pending_writes(events.sample("06")))
    await cache.write([PendingWrite(message, NOW_MS), PendingWrite(conversation, NOW_MS)])
    stored = await client.get(keys.message(INSTANCE, message.id))

    assert stored == encode(message)
    assert stored.startswith(b'{"revision":"')
    assert await reader.message(INSTANCE, message.id) == message
    assert await reader.conversation(INSTANCE, conversation.id) == conversation
    assert isinstance(conversation, Conversation)


async def test_what_another_account_left_is_neither_merged_nor_read(
    cache: DocumentWriter, reader: Documents, client: Client, keys: CacheKeys
) -> None:
    """As when the operator gives an instance's name to another account."""
    await write(
        cache, events.message(content="of account 3", at=1_790_863_900.0), events.message(7)
    )
    (message, _) = pending_writes(events.message(content="of account 4", at=1_790_863_300.0))
    moved = msgspec.structs.replace(message.document, account_id=4)
    await client.hset(keys.accounts, INSTANCE, 4)
    written = await cache.write([PendingWrite(moved, NOW_MS)])

    assert written.outcomes == ["applied"]
    assert [m.content for m in await reader.messages(INSTANCE, 1584, 9)] == ["of account 4"]
    assert await reader.message(INSTANCE, 7) is None
    assert await reader.conversation(INSTANCE, 1584) is None


async def test_an_account_whose_digits_begin_anothers_is_another(cache: DocumentWriter) -> None:
    """Its stored documents are newer, and would make ours stale if they were taken for ours."""
    theirs = pending_writes(events.message(content="of account 31", at=1_790_863_900.0))
    ours = pending_writes(events.message(content="of account 3", at=1_790_863_300.0))
    for some, account_id in ((theirs, 31), (ours, 3)):
        written = await cache.write(
            [
                PendingWrite(
                    msgspec.structs.replace(pending.document, account_id=account_id), NOW_MS
                )
                for pending in some
            ]
        )

        assert [type(pending.document) for pending in some] == [Message, Conversation]
        assert written.outcomes == ["applied", "applied"]


async def test_what_the_cache_does_not_have(reader: Documents) -> None:
    """Is None, or nothing."""
    assert await reader.message(INSTANCE, 1) is None
    assert await reader.message_by_source(INSTANCE, "x") is None
    assert await reader.conversation(INSTANCE, 1) is None
    assert await reader.messages(INSTANCE, 1, 20) == []
    assert await reader.conversation_of(INSTANCE, "") is None


async def test_full_memory_is_seen_whatever_is_written_first(
    server_binary: Path, prefix: str
) -> None:
    """Nothing of a batch is written then; what is stale takes no room."""
    with Server(server_binary, "--maxmemory-policy", "noeviction") as server:
        async with create_client(server.uri) as own:
            cache = DocumentWriter(own, CacheSettings(prefix))
            await write(cache, events.message(1, source_id="WAID:A"))
            await own.config_set("maxmemory", 1)
            for new in (
                events.message(2),
                events.message(2, source_id="WAID:B"),
                events.message(1, source_id="WAID:A", at=1_790_863_900.0),
            ):
                with pytest.raises(RedisUnavailable) as raised:
                    await write(cache, new)
                assert raised.value.kind == "oom"
            assert await write(cache, events.message(1, source_id="WAID:A")) == ["stale", "stale"]

            assert await own.get(cache.keys.message(INSTANCE, 2)) is None
            await own.config_set("maxmemory", 0)
            assert await write(cache, events.message(2)) == ["applied", "stale"]
