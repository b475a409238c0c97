"""Dead letters: found by reason, instance and age, shown without what people wrote, put back."""

import json
from typing import Any

import pytest

from tests import events
from tests.cli.conftest import Program, settled
from tests.consumer.harness import Harness, harnessed
from worker.core.operations.dead_letter import DeadLetter
from worker.store.admin.stream_admin import StreamAdmin

SECRETS = ("Texto secreto", "5511900000042", "Maria")


def secret(message_id: int, **changes: Any) -> dict[str, Any]:
    body = events.message(message_id, content="Texto secreto", **changes)
    body["sender"] |= {"name": "Maria", "phone_number": "+5511900000042"}
    return body


@pytest.fixture
async def letters(rig: Harness) -> Harness:
    """One cached message, two letters in conflict, one of no instance, one that is no JSON."""
    await rig.add(secret(1))
    await settled(rig)
    await rig.add(secret(2, inbox_id=13))
    await rig.add(secret(3), expect="loja-boreal")
    await rig.add(events.sample("12") | {"messages": [], "inbox_id": 77})
    await rig.add(b"Texto secreto")
    await settled(rig)
    return rig


async def ids(program: Program, *arguments: str) -> list[str]:
    return [row["id"] for row in (await program("dead", "list", "--json", *arguments)).rows]


@pytest.mark.usefixtures("letters")
async def test_a_list_is_narrowed_by_reason_instance_and_age(program: Program) -> None:
    everything = (await program("dead", "list", "--json")).rows

    assert [row["reason"] for row in everything] == [
        "instance_conflict",
        "instance_conflict",
        "no_instance",
        "bad_json",
    ]
    assert [row["inbox"] for row in everything] == ["3/13", "3/12", "?/77", None]
    both, pasted, unknown, broken = (row["id"] for row in everything)
    assert await ids(program, "--reason", "instance_conflict") == [both, pasted]
    assert await ids(program, "--instance", "loja-boreal") == [pasted]
    assert await ids(program, "--instance", "loja-aurora") == [both, pasted]
    assert await ids(program, "--age", "1h") == []
    assert await ids(program, "--age", "0s") == [both, pasted, unknown, broken]
    table = await program("dead", "list")
    assert len(table.out.splitlines()) == 4
    assert not any(word in table.out for word in SECRETS)


@pytest.mark.usefixtures("letters")
async def test_what_people_wrote_is_shown_only_when_asked(program: Program) -> None:
    for letter in await ids(program):
        hidden = (await program("dead", "show", letter)).out
        shown = (await program("dead", "show", letter, "--content")).out

        assert not any(word in hidden for word in SECRETS)
        assert json.loads(hidden)["reason"]
        if "no_instance" not in shown:
            assert "Texto secreto" in shown
    assert json.loads(hidden)["payload"] == "… 13 bytes, not an object"
    first = json.loads((await program("dead", "show", (await ids(program))[0])).out)
    assert first["payload"]["inbox"] == {"id": 13, "name": "loja-aurora"}
    assert first["payload"]["event"] == "message_created"


async def test_a_replay_keeps_fields_and_first_id_and_takes_the_letter_away(
    program: Program, letters: Harness
) -> None:
    before = await letters.letters()
    done = await program("dead", "replay", "--instance", "loja-boreal")
    await settled(letters)
    after = await letters.letters()

    assert done.out == "Put 1 entry back on the stream.\n"
    # It is dead once more, as the same entry.
    assert len(after) == 4
    assert after[-1][b"_id"] == before[1][b"_id"]
    assert after[-1][b"payload"] == before[1][b"payload"]
    assert after[-1][b"expect"] == b"loja-boreal"
    ((_, entry),) = await letters.client.xrevrange(letters.key, count=1)
    assert entry == {n: before[1][n] for n in (b"payload", b"expect", b"_id")}


@pytest.mark.usefixtures("letters")
async def test_letters_that_come_meanwhile_are_not_replayed_again_and_again(
    program: Program,
) -> None:
    """What stays dead is a new letter, behind those that were there when the replay began."""
    done = await program("dead", "replay", "--json")

    assert done.rows == [{"replayed": 4, "older_than_ttl": 0}]


async def test_a_replay_that_was_interrupted_anywhere_loses_nothing_and_doubles_nothing(
    program: Program, redis_uri: str, prefix: str
) -> None:
    """Between putting back and taking away: an entry is there twice, and is the same event."""
    async with harnessed(redis_uri, prefix) as rig:
        for number in (1, 2, 3):
            entry_id = await rig.add(events.message(number, inbox_name="x" * 256))
        await rig.consume()
        dead, stream = StreamAdmin(rig.client, f"{rig.key}:dead"), StreamAdmin(rig.client, rig.key)
        (some,) = [some async for some in dead.walk()]
        await stream.add_all([DeadLetter(e.id, e.fields).original() for e in some[:2]])
        await dead.delete([some[0].id])
    async with harnessed(redis_uri, prefix, instances={"3/12": "loja"}) as rig:
        assert (await program("dead", "replay", "--reason", "no_instance")).code == 0
        await rig.consume()

        assert await rig.letters() == []
        assert [m.id for m in await rig.documents.messages("loja", 1584, 9)] == [1, 2, 3]
        assert rig.outcomes() == {"applied": 3, "stale": 1}
        last = await rig.documents.message("loja", 3)
        assert last is not None
        # Ordered by its first id, not by that of the replay.
        assert entry_id.partition(b"-")[0].decode() in last.revision


async def test_nothing_is_taken_away_that_the_stream_did_not_take(
    program: Program, letters: Harness
) -> None:
    """A stream that holds something else refuses every entry."""
    await letters.client.rename(f"{letters.key}:dead", f"{letters.key}2:dead")
    await letters.client.set(f"{letters.key}2", "no stream", ex=60)
    done = await program("dead", "replay", "--set", f"CHATWOOT_CACHE_STREAM_KEY={letters.key}2")

    assert done.code != 0
    assert await letters.client.xlen(f"{letters.key}2:dead") == 4


@pytest.mark.usefixtures("letters")
async def test_a_purge_deletes_only_what_it_was_asked_for(program: Program) -> None:
    done = await program("dead", "purge", "--reason", "bad_json")
    gone = await program("dead", "purge", "1-1", "--yes")

    assert (done.code, done.out) == (0, "Deleted 1 dead letter.\n")
    assert gone.code == 1
    assert len(await ids(program)) == 3


async def test_fields_beyond_a_thousand_come_back_too(program: Program, rig: Harness) -> None:
    names = {f"field-{n:04}": str(n) for n in range(1500)}
    await rig.add(b"no json", **names)
    await settled(rig)
    await program("dead", "replay")
    ((_, entry),) = await rig.client.xrevrange(rig.key, count=1)

    del entry[b"_id"]
    assert entry == {
        b"payload": b"no json",
        **{name.encode(): value.encode() for name, value in names.items()},
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show"], "needs the id of a dead letter"),
        (["show", "x"], "is not the id of a dead letter"),
        (["list", "--age", "7 days"], "--age must be a number and s, m, h or d"),
    ],
)
async def test_wrong_use_is_told(program: Program, arguments: list[str], said: str) -> None:
    done = await program("dead", *arguments)

    assert done.code == 2
    assert said in done.err


async def test_a_letter_that_is_not_there_is_1(program: Program) -> None:
    for action in ("show", "replay", "purge"):
        assert (await program("dead", action, "1-1")).code == 1
