"""The loop on a real server: every outcome, every entry acknowledged once, none lost."""

import json
from pathlib import Path

import anyio
import pytest

from tests import events
from tests.consumer.harness import Fragile, Harness, harnessed
from tests.servers import Server
from tests.waiting import wait_until
from worker.errors import PermissionDenied
from worker.store.client import create_client


async def test_caches_the_events_that_evolutions_inboxes_send(rig: Harness) -> None:
    """The examples, in order: two ignored, and of the conversation the newest state."""
    paths = sorted((events.PAYLOADS / "evolution").glob("*.json"))
    for path in paths:
        await rig.add(path.read_bytes())
    await rig.consume()
    conversation = await rig.documents.conversation("loja-aurora", 1584)
    messages = await rig.documents.messages("loja-aurora", 1584, 20)

    assert rig.outcomes() == {"applied": 10, "stale": 1, "ignored": 2}
    assert rig.count("entries_acked_total") == 13
    assert [m.id for m in messages] == [90214, 90215, 90216, 90217, 90218]
    assert conversation is not None
    assert conversation.status == "resolved"
    assert rig.count("events_total", event="message_updated", evolution_instance="loja-aurora") == 2


MALFORMED: list[tuple[bytes, str]] = [
    (b"", "bad_json"),
    (b"not json", "bad_json"),
    (b"[1]", "bad_json"),
    (b'"text"', "bad_json"),
    (b'{"event":"message_created"', "bad_json"),
    (b'{"event":"message_created","content":"\xff"}', "bad_json"),
    (b'{"event":"message_created","skipped":"\xff"}', "bad_json"),
    (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "bad_json"),
    (b"{}", "bad_event"),
    (b'{"event":7}', "bad_event"),
    (b'{"event":"message_created"}', "bad_event"),
    (events.encode({**events.message(), "id": "90214"}), "bad_event"),
    (events.encode({**events.message(), "id": 0}), "bad_event"),
    (events.encode({**events.message(), "conversation": None}), "bad_event"),
    (events.encode({**events.message(), "attachments": {}}), "bad_event"),
    (events.encode(events.message(content="x" * 5_000_000)), "too_large"),
]


async def test_malformed_entries_are_buried_and_good_ones_between_them_cached(rig: Harness) -> None:
    """Each with its reason, in one step with its acknowledgement."""
    for number, (payload, _) in enumerate(MALFORMED, start=1):
        await rig.add(payload)
        await rig.add(events.message(number))
    await rig.client.xadd(rig.key, {"other": "field"})
    await rig.add(events.message(99), _id="12345678901234-0")
    await rig.add(events.message(99), instance=b"\xff")
    await rig.consume()
    reasons = [letter[b"_reason"].decode() for letter in await rig.letters()]

    assert reasons == [reason for _, reason in MALFORMED] + ["bad_entry"] * 3
    assert rig.outcomes() == {"applied": len(MALFORMED), "dead": len(reasons)}
    assert rig.count("dead_letters_total", reason="too_large") == 1
    messages = await rig.documents.messages("loja-aurora", 1584, 200)
    assert len(messages) == len(MALFORMED)


async def test_other_events_and_the_bot_contact_are_ignored(rig: Harness) -> None:
    """Whatever shape an event has that we do not cache."""
    await rig.add({"event": "contact_updated", "id": "odd"})
    await rig.add({"event": "automation_event.x", "conversation": 7})
    await rig.add(events.sample("10"))
    await rig.add(events.message(channel="Channel::WebWidget", inbox_id=15))
    await rig.consume()

    assert rig.outcomes() == {"ignored": 4}
    assert await rig.letters() == []
    assert rig.count("events_total", event="other", evolution_instance="") == 2


async def test_a_key_of_another_type_buries_its_entry(rig: Harness) -> None:
    """The worst of an entry's documents counts."""
    await rig.client.rpush(rig.documents.keys.conversation("loja-aurora", 1584), "x")
    await rig.add(events.message())
    await rig.consume()
    (letter,) = await rig.letters()

    assert letter[b"_reason"] == b"wrong_type"


async def test_events_of_one_message_in_a_batch_are_one_write(rig: Harness) -> None:
    """Those that add nothing to the others are stale."""
    for n, at in enumerate([1_790_863_300.0, 1_790_863_500.0, 1_790_863_400.0]):
        await rig.add(events.message(content=str(n), at=at))
    await rig.consume()

    assert rig.outcomes() == {"applied": 2, "stale": 1}
    assert rig.count("documents_written_total", kind="message") == 1


async def test_bindings_keep_instances_apart(rig: Harness) -> None:
    """First come, first bound; what a binding forbids is dead and says why."""
    await rig.add(events.message(1))
    await rig.add(events.message(2, inbox_id=13))
    await rig.add(events.message(3, account_id=4))
    await rig.add(events.message(4), instance="other")
    await rig.add(events.message(5), expect="other")
    await rig.add(events.message(6, inbox_id=14), instance="loja-aurora")
    await rig.consume()
    letters = await rig.letters()

    assert {letter[b"_reason"] for letter in letters} == {b"instance_conflict"}
    assert [json.loads(letter[b"payload"])["id"] for letter in letters] == [2, 3, 4, 5]
    assert [m.id for m in await rig.documents.messages("loja-aurora", 1584, 9)] == [1, 6]
    assert await rig.client.ttl(rig.documents.keys.bindings) > 604_800 + 86_400
    assert await rig.client.ttl(rig.documents.keys.accounts) > 604_800 + 86_400


async def test_the_operators_word_outranks_a_binding(redis_uri: str, prefix: str) -> None:
    """An inbox of any channel, under the name the operator gives it."""
    async with harnessed(redis_uri, prefix) as first:
        await first.add(events.message(1))
        await first.consume()
    async with harnessed(redis_uri, prefix, instances={"3/12": "moved", "3/15": "site"}) as second:
        await second.add(events.message(2))
        await second.add(events.message(3, inbox_id=15, channel="Channel::WebWidget"))
        await second.consume()

        assert await second.documents.message("moved", 2) is not None
        assert await second.documents.message("site", 3) is not None
        assert await second.client.hget(second.documents.keys.bindings, "3/12") == b"moved"


async def test_a_conversation_event_without_account_needs_its_inbox_bound(rig: Harness) -> None:
    """It is dead, replayable, until a message of its inbox was cached."""
    body = events.sample("12")
    del body["messages"]
    async with rig.running():
        await rig.add(body)
        await wait_until(rig.letters, "the first is dead")
        await rig.add(events.message())
        await rig.add(body)
        await wait_until(rig.is_idle, "the others are settled")
    (letter,) = await rig.letters()

    assert letter[b"_reason"] == b"no_instance"
    assert rig.outcomes() == {"applied": 2, "dead": 1}


async def test_a_defect_leaves_its_entry_pending_and_its_neighbours_settled(
    redis_uri: str, prefix: str
) -> None:
    """Nothing is lost by what we did wrong, and nobody else waits for it."""
    fragile = Fragile(2)
    async with harnessed(redis_uri, prefix, cache=fragile) as rig:
        for number in (1, 2, 3):
            await rig.add(events.message(number))

        async def others_are_settled() -> bool:
            return len(await rig.stream.pending(b"0-0")) == 1 and 3 in fragile.written

        async with rig.running():
            await wait_until(others_are_settled, "only the defect's entry is pending")

        assert await rig.letters() == []
        assert rig.count("inflight_entries") == 0


async def test_keeps_the_batch_while_redis_is_away(server_binary: Path, prefix: str) -> None:
    """No attempt is spent, nothing is lost, and the figures tell the truth."""
    with Server(server_binary, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with harnessed(server.uri, prefix) as rig:
            async with rig.running():
                await rig.add(events.message(1))
                await wait_until(rig.is_idle, "the first is settled")
                server.kill()
                await wait_until(lambda: rig.consumer.outage, "the outage is seen")
                assert rig.count("redis_up") == 0
                server.start()
                await wait_until(lambda: rig.consumer.outage is None, "Redis is back")
                await rig.add(events.message(2))
                await wait_until(rig.is_idle, "the second is settled")

            assert rig.count("redis_up") == 1
            assert rig.count("redis_errors_total", kind="connection") >= 1
            assert [m.id for m in await rig.documents.messages("loja-aurora", 1584, 9)] == [1, 2]


async def test_stops_at_once_while_redis_is_away(server_binary: Path, prefix: str) -> None:
    """What is in hand stays pending for the next start."""
    with Server(server_binary) as server:
        async with harnessed(server.uri, prefix) as rig:
            server.kill()
            with anyio.fail_after(5):
                async with rig.running():
                    await wait_until(lambda: rig.consumer.outage, "the outage is seen")


async def test_full_memory_is_waited_for(server_binary: Path, prefix: str) -> None:
    """OOM of the write script is an outage, not a dead letter: the batch is kept."""
    with Server(server_binary, "--maxmemory-policy", "noeviction") as server:
        async with harnessed(server.uri, prefix) as rig:
            await rig.add(events.message())
            await rig.client.config_set("maxmemory", "1")
            async with rig.running():
                await wait_until(lambda: rig.consumer.outage, "the outage is seen")
                assert rig.consumer.outage is not None
                assert rig.consumer.outage.kind == "oom"
                await rig.client.config_set("maxmemory", "0")
                await wait_until(rig.is_idle, "the batch is settled")

            assert rig.outcomes() == {"applied": 1}
            assert await rig.letters() == []


async def test_a_demoted_server_is_left(server_binary: Path, prefix: str) -> None:
    """The next try has a new connection, for the address may lead to another server by then."""
    with Server(server_binary) as server:
        async with harnessed(server.uri, prefix) as rig:
            await rig.add(events.message())
            await rig.client.execute_command("REPLICAOF", "127.0.0.1", "1")
            before = {c["id"] for c in await rig.client.client_list()}
            async with rig.running():
                await wait_until(
                    lambda: rig.count("redis_errors_total", kind="readonly") > 1, "two tries"
                )
                after = {c["id"] for c in await rig.client.client_list()}

            assert not before & after


async def test_a_read_only_server_is_waited_for(server_binary: Path, prefix: str) -> None:
    """As after a fail-over, before the address points to the new primary."""
    with Server(server_binary) as server:
        async with harnessed(server.uri, prefix) as rig:
            await rig.add(events.message())
            await rig.client.execute_command("REPLICAOF", "127.0.0.1", "1")
            async with rig.running():
                await wait_until(lambda: rig.consumer.outage, "the outage is seen")
                await rig.client.execute_command("REPLICAOF", "NO", "ONE")
                await wait_until(rig.is_idle, "the batch is settled")

            assert rig.outcomes() == {"applied": 1}


@pytest.mark.parametrize(
    "denied", ["-xreadgroup", "-evalsha -eval", "-xack", "-hgetall", "-zadd", "-get", "-hset"]
)
async def test_a_missing_right_ends_the_worker(
    server_binary: Path, prefix: str, denied: str
) -> None:
    """The message names what Redis refused."""
    with Server(server_binary) as server:
        async with create_client(server.uri) as admin:
            rules = ["on", ">p", "~*", "&*", "+@all", *denied.split()]
            await admin.execute_command("ACL", "SETUSER", "w", *rules)
        uri = server.uri.replace("redis://", "redis://w:p@")
        async with harnessed(uri, prefix) as rig:
            await rig.add(events.message())
            says = pytest.RaisesExc(PermissionDenied, match=r"(?i)permission|can't run")
            with (
                pytest.RaisesGroup(says, flatten_subgroups=True),
                anyio.fail_after(10),
            ):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(rig.consumer.run)
