"""Taking away exactly what was asked for: an instance, a conversation, a contact, everywhere."""

import json
from typing import Any

import pytest

from tests import events
from tests.cli.conftest import Program, settled
from tests.consumer.harness import Harness
from tests.core.names import ADVERSARIAL


def from_contact(message_id: int, conversation_id: int, phone: str, **others: Any) -> Any:
    """A message of a conversation with somebody."""
    body = events.message(message_id, conversation_id=conversation_id, **others)
    who = {"identifier": f"{phone}@s.whatsapp.net", "phone_number": f"+{phone}"}
    body["sender"] |= who
    body["conversation"]["meta"]["sender"] |= who
    return body


async def found(rig: Harness) -> set[str]:
    pattern = rig.documents.keys.pattern
    keys = {key.decode() async for key in rig.client.scan_iter(pattern, count=1000)}
    return {key.partition(":chatwoot:")[2] for key in keys} - {"%bindings", "%accounts", "%version"}


async def test_an_instance_goes_and_no_other_whatever_their_names(
    program: Program, rig: Harness
) -> None:
    names = [name for name in ADVERSARIAL if "\x00" not in name]
    for number, name in enumerate(names, 1):
        await rig.add(
            events.message(number, inbox_id=number, inbox_name=name, conversation_id=number)
        )
    await settled(rig)
    every = await found(rig)
    for number, name in enumerate(names[:12], 1):
        done = await program("purge", "--yes", "--", name)
        left = await found(rig)

        assert (done.code, done.out) == (0, "Deleted 2 documents.\n")
        assert len(every - left) == 4
        assert all(str(number) in key or "contact" in key for key in every - left)
        every = left
    assert (await program("audit")).code == 0


async def test_a_conversation_goes_with_its_messages_beyond_the_timeline_too(
    program: Program, rig: Harness
) -> None:
    for number in (1, 2, 3):
        await rig.add(from_contact(number, 7, "551", source_id=f"WAID:{number}"))
    await rig.add(from_contact(3, 7, "551", source_id="WAID:9", at=1_790_863_400.0))
    await rig.add(from_contact(4, 8, "552", source_id="WAID:4"))
    await settled(rig)
    keys = rig.documents.keys
    await rig.client.zrem(keys.timeline("loja-aurora", 7), 1)
    done = await program("purge", "loja-aurora", "--conversation", "7")

    assert done.out == "Deleted 4 documents.\n"
    assert await found(rig) == {
        "loja-aurora:contact:552",
        "loja-aurora:conversation:8",
        "loja-aurora:conversation:8:messages",
        "loja-aurora:message:4",
        "loja-aurora:source:WAID%3A4",
    }


@pytest.mark.parametrize(
    "contact", ["551@s.whatsapp.net", "551:7@s.whatsapp.net", "551@c.us", "+551", "55-1", "551"]
)
async def test_a_contact_goes_from_the_cache_the_stream_and_the_dead_letters(
    program: Program, rig: Harness, contact: str
) -> None:
    await rig.add(from_contact(1, 7, "551"))
    await rig.add(from_contact(2, 8, "551"))
    await rig.add(from_contact(3, 9, "5511"))
    await rig.add(from_contact(4, 7, "551"), expect="x")
    await rig.add(from_contact(5, 9, "5511"), expect="x")
    # Of a conversation of theirs, but without them; not folded with what says so.
    await settled(rig)
    await rig.add({**events.sample("12"), "id": 8, "meta": {}, "inbox_id": 12})
    await rig.add({"event": "contact_updated", "account": {"id": 3}, "phone_number": "+551"})
    await rig.add(from_contact(6, 7, "551", inbox_id=40, inbox_name="outra"))
    await settled(rig)
    done = await program("purge", "loja-aurora", "--contact", contact, "--everywhere", "--json")
    entries = [json.loads(f[b"payload"]) for _, f in await rig.client.xrange(rig.key)]
    dead = [json.loads(letter[b"payload"])["id"] for letter in await rig.letters()]

    assert done.rows == [{"documents": 4, "entries": 4, "letters": 1}]
    assert dead == [5]
    # What names no inbox may be of either instance of the account.
    assert [body.get("id") for body in entries] == [3, 5, None, 6]
    assert {key for key in await found(rig) if key.startswith("loja-aurora")} == {
        "loja-aurora:contact:5511",
        "loja-aurora:conversation:9",
        "loja-aurora:conversation:9:messages",
        "loja-aurora:message:3",
    }
    assert "outra:message:6" in await found(rig)


async def test_a_number_s_other_form_is_told_and_not_purged(program: Program, rig: Harness) -> None:
    """With and without the ninth digit, it may be two persons'."""
    await rig.add(from_contact(1, 7, "5511987654321"))
    await settled(rig)
    done = await program("purge", "loja-aurora", "--contact", "+55 11 8765-4321")

    assert (done.code, done.out) == (0, "Deleted 0 documents.\n")
    assert done.err.endswith("purge --contact 5511987654321\n")
    assert "loja-aurora:message:1" in await found(rig)
    assert not (await program("purge", "loja-aurora", "--contact", "5511987654321")).err


async def test_everywhere_needs_no_stream(program: Program) -> None:
    done = await program("purge", "loja", "--everywhere")

    assert (done.code, done.out) == (
        0,
        "Deleted 0 documents, 0 entries and 0 dead letters.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x" * 256], "1 to 255 bytes"),
        (["loja", "--conversation", "0"], "1 or more"),
        (["loja", "--contact", "nobody"], "a JID or a phone number"),
    ],
)
async def test_wrong_use_is_told(program: Program, arguments: list[str], said: str) -> None:
    done = await program("purge", *arguments)

    assert done.code == 2
    assert said in done.err
