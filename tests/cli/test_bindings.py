"""Moving an inbox: for all workers at once, and nothing of it stays where it was."""

import shlex
from typing import Any

import pytest
import structlog

from tests import events
from tests.cli.conftest import Program, settled
from tests.consumer.harness import Harness, harnessed
from worker.consumer.batch import Batch
from worker.core.binding_rules import Bindings
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_writer import CacheSettings


async def keys_of(rig: Harness, instance: str) -> set[bytes]:
    pattern = rig.documents.keys.instance_pattern(instance)
    return {key async for key in rig.client.scan_iter(pattern, count=1000)}


async def test_an_inbox_is_moved_while_a_worker_works(
    program: Program, rig: Harness, redis_uri: str, prefix: str
) -> None:
    """Nothing of it stays under the old name, others of that name stay, and new ones move."""
    await rig.add(events.message(1, source_id="WAID:1"))
    await rig.add(events.message(2, inbox_id=13, conversation_id=9), instance="loja-aurora")
    async with harnessed(redis_uri, prefix, consumer="d") as other, other.running():
        await settled(rig)
        done = await program("bindings", "set", "3/12", "nova")
        await rig.add(events.message(3))
        await rig.add(events.message(4), instance="loja-aurora")
        await settled(rig)

    assert (done.code, done.err) == (0, "")
    assert "Deleted 2 documents" in done.out
    assert await rig.documents.message("nova", 3)
    assert await rig.documents.message("loja-aurora", 2)
    left = {key.decode().rpartition("aurora:")[2] for key in await keys_of(rig, "loja-aurora")}
    # The contact's pointer led to the greater conversation, which is gone.
    assert left == {"conversation:9", "conversation:9:messages", "message:2"}
    assert [letter[b"_reason"] for letter in await rig.letters()] == [b"instance_conflict"]


async def test_a_batch_that_was_resolved_before_the_move_is_resolved_anew(
    idle_rig: Harness, prefix: str
) -> None:
    """However long a worker held it: an outage, a stopped process."""
    rig, processor = idle_rig, idle_rig.consumer._processor
    table = BindingTable(rig.client, CacheSettings(prefix))
    await table.put(Bindings.of_operator({"3/12": "loja-aurora"}))
    await rig.add(events.message(2))
    batch = Batch(await rig.stream.read())
    await processor.prepare(batch)
    await table.put(Bindings.of_operator({"3/12": "nova"}))
    await processor.write(batch)
    await processor.settle(batch)

    assert await rig.documents.message("nova", 2)
    assert await rig.documents.message("loja-aurora", 2) is None


async def test_what_a_flush_took_is_claimed_again_by_whoever_comes_first(
    rig: Harness, prefix: str
) -> None:
    """A copy of what is gone is no binding."""
    await rig.add(events.message(1))
    await settled(rig)
    keys = [key async for key in rig.client.scan_iter(f"{prefix}:chatwoot:*", count=1000)]
    await rig.client.delete(*keys)
    await rig.add(events.message(2))
    await settled(rig)

    assert await rig.client.hget(rig.documents.keys.bindings, "3/12") == b"loja-aurora"


async def test_an_interrupted_move_is_completed_by_the_same_command(
    program: Program, rig: Harness, prefix: str
) -> None:
    await rig.add(events.message(1))
    await settled(rig)
    await BindingTable(rig.client, CacheSettings(prefix)).put(
        Bindings.of_operator({"3/12": "nova"})
    )

    assert await keys_of(rig, "loja-aurora")
    done = await program("bindings", "set", "3/12", "nova")
    assert "Deleted 2 documents" in done.out
    assert not await keys_of(rig, "loja-aurora")


async def test_a_dropped_inbox_leaves_its_instance_to_any_account(
    program: Program, rig: Harness
) -> None:
    await rig.add(events.message(1))
    await settled(rig)
    done = await program("bindings", "drop", "3/12")
    await rig.add(events.message(2, account_id=4, inbox_id=30))
    await settled(rig)

    assert done.code == 0
    assert await rig.documents.message("loja-aurora", 1) is None
    moved = await rig.documents.message("loja-aurora", 2)
    assert moved is not None
    assert moved.account_id == 4


async def test_a_list_says_who_bound_what(
    program: Program, rig: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.add(events.message(1))
    await rig.add(events.message(2, inbox_id=2, inbox_name="a\tb [red]x"))
    await settled(rig)
    monkeypatch.setenv("CHATWOOT_CACHE_INSTANCES", "{3/15: site}")

    assert (await program("bindings", "list")).out == (
        "3/2\ta\\tb [red]x\tcache\n3/12\tloja-aurora\tcache\n3/15\tsite\tsettings\n"
    )
    rows = (await program("bindings", "list", "--json")).rows
    assert rows[0] == {
        "inbox": "3/2",
        "instance": "a\tb [red]x",
        "account_of_instance": 3,
        "stated_in": "cache",
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["set", "3/12"], "needs an inbox and an instance"),
        (["set", "3", "loja"], "write account/inbox"),
        (["set", "3/12/1", "loja"], "write account/inbox"),
        (["set", "3/12", "x" * 256], "1 to 255 bytes"),
        (["set", "3/12", ""], "1 to 255 bytes"),
        (["drop"], "needs an inbox only"),
        (["drop", "3/12", "loja"], "needs an inbox only"),
        (["list", "3/12"], "takes no inbox"),
        (["set", "3/15", "outra"], "CHATWOOT_CACHE_INSTANCES binds inbox 3/15 to 'site'"),
        (["drop", "3/15"], "CHATWOOT_CACHE_INSTANCES binds"),
        (["set", "4/1", "site"], "first run chatwoot-cache bindings drop 3/15"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_what_to_do(
    program: Program, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.setenv("CHATWOOT_CACHE_INSTANCES", "{3/15: site}")
    done = await program("bindings", *arguments)

    assert done.code == 2
    assert said in done.err


REFUSED: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("an inbox of the same name in another account", {"account_id": 4}, {}),
    ("a further inbox of the same name", {"inbox_id": 30}, {}),
    ("a webhook pasted into the wrong inbox", {}, {"expect": "loja-boreal"}),
    ("a producer that states another", {}, {"instance": "-it's [odd] $(x)"}),
    ("a producer of another account", {"account_id": 4}, {"instance": "loja-aurora"}),
    ("an unbound inbox that another's URL names", {"inbox_id": 31}, {"expect": "loja-boreal"}),
]


@pytest.mark.parametrize(
    ("body", "fields"), [(b, f) for _, b, f in REFUSED], ids=[r[0] for r in REFUSED]
)
async def test_the_command_that_a_refusal_names_lets_it_in(
    program: Program, rig: Harness, body: dict[str, Any], fields: dict[str, str]
) -> None:
    await rig.add(events.message(1))
    await settled(rig)
    await rig.add(events.message(2, conversation_id=2, **body), **fields)
    with structlog.testing.capture_logs() as logs:
        await settled(rig)
    (line,) = [line for line in logs if line["event"] == "entry.buried"]

    assert line["reason"] == "instance_conflict"
    assert line["inbox"] == f"{body.get('account_id', 3)}/{body.get('inbox_id', 12)}"
    assert line["instance"]
    assert line["bound"]
    assert "CACHE_REDIS_PREFIX_KEY" in line["otherwise"]
    assert (
        rig.count(
            "instance_conflicts_total",
            inbox=line["inbox"],
            evolution_instance=line["instance"],
            bound=line["bound"],
        )
        == 1
    )
    for command in line["allow"].split(" && "):
        name, *arguments = shlex.split(command)
        assert name == "chatwoot-cache"
        assert (await program(*arguments)).code == 0
    await settled(rig)
    instances: Any = await rig.client.hgetall(rig.documents.keys.bindings)
    bound = instances[line["inbox"].encode()].decode()
    assert await rig.documents.message(bound, 2) is not None
    assert await rig.letters() == []
    assert (await program("audit")).code == 0


async def test_where_the_settings_stand_they_are_what_to_change(
    redis_uri: str, prefix: str
) -> None:
    async with harnessed(redis_uri, prefix, instances={"3/12": "site"}) as rig, rig.running():
        await rig.add(events.message(1), expect="loja-aurora")
        with structlog.testing.capture_logs() as logs:
            await settled(rig)
        (line,) = [line for line in logs if line["event"] == "entry.buried"]

    assert line["allow"].startswith("change CHATWOOT_CACHE_INSTANCES, which binds 'site'")


async def test_settings_that_move_an_inbox_say_how_to_clear_what_it_left(
    program: Program, redis_uri: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harnessed(redis_uri, prefix) as before:
        await before.add(events.message(1))
        await before.consume()
    async with harnessed(redis_uri, prefix, instances={"3/12": "nova"}) as after:
        await after.add(events.message(2))
        with structlog.testing.capture_logs() as logs:
            await after.consume()
    (line,) = [line for line in logs if line["event"] == "binding.overruled"]
    monkeypatch.setenv("CHATWOOT_CACHE_INSTANCES", "{3/12: nova}")

    assert (line["inbox"], line["was"], line["now"]) == ("3/12", "loja-aurora", "nova")
    assert (await program("audit")).code == 1
    assert (await program(*shlex.split(line["clean"])[1:])).code == 0
    assert (await program("audit")).code == 0


async def test_an_event_that_waits_for_its_inbox_comes_in_by_replay(
    program: Program, rig: Harness
) -> None:
    body = events.sample("12") | {"messages": []}
    await rig.add(body)
    with structlog.testing.capture_logs() as logs:
        await settled(rig)
    (line,) = [line for line in logs if line["event"] == "entry.buried"]
    await rig.add(events.message(1))
    await settled(rig)
    replayed = await program("dead", "replay", "--reason", "no_instance")
    await settled(rig)

    assert line["allow"].startswith(f"chatwoot-cache bindings set ACCOUNT/{body['inbox_id']} ")
    assert replayed.out.startswith("Put 1 entry back")
    assert await rig.letters() == []
    assert rig.outcomes()["dead"] == 1
