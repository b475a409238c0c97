"""The audit finds what should never be, and nothing else."""

from tests import events
from tests.cli.conftest import Program, settled
from tests.consumer.harness import Harness
from worker.core.cache_keys import CacheKeys
from worker.core.documents import encode


async def test_a_cache_that_only_workers_wrote_is_clean(program: Program, rig: Harness) -> None:
    for path in sorted((events.PAYLOADS / "evolution").glob("*.json")):
        await rig.add(path.read_bytes())
    await rig.add(events.message(5, inbox_id=5, inbox_name="a:b*[c]", source_id="x:*"))
    await settled(rig)
    done = await program("audit")
    report = (await program("audit", "--json")).rows[0]

    assert done.code == 0
    assert "nothing is wrong" in done.out
    assert report["documents"]["a:b*[c]"] == 2
    assert report["findings"] == []


async def test_everything_wrong_is_named(program: Program, rig: Harness) -> None:
    """Once each, with the key; exit code 1."""
    await rig.add(events.message(1))
    await rig.add(events.message(2, inbox_id=20, inbox_name="outra", account_id=4))
    await settled(rig)
    keys, client = CacheKeys(rig.documents.keys.pattern.partition(":chatwoot:")[0]), rig.client
    mine = await rig.documents.message("loja-aurora", 1)
    other = await rig.documents.message("outra", 2)
    assert mine
    assert other
    root = keys.pattern[:-1]
    put = {
        "misplaced": (keys.message("loja-aurora", 9), encode(mine)),
        "wrong_account": (keys.message("loja-aurora", 2), encode(other)),
        "unreadable": (keys.message("loja-aurora", 3), b"{}"),
        "foreign": (f"{root}loja-aurora:note:1", b"x"),
    }
    for key, value in put.values():
        await client.set(key, value, ex=60)
    pointer, immortal = keys.contact("loja-aurora", "1"), keys.source("loja-aurora", "s")
    await client.set(pointer, b"x", ex=60)
    await client.set(immortal, b"1")
    await client.rpush(keys.message("loja-aurora", 4), "x")
    strange = root.encode() + b"\xff%zz"
    await client.set(strange, b"x", ex=60)
    report = await program("audit", "--json")
    found = {(f["problem"], f["key"]) for f in report.rows[0]["findings"]}

    assert report.code == 1
    assert found == {
        *((problem, key) for problem, (key, _) in put.items()),
        ("misplaced", keys.message("loja-aurora", 2)),
        ("wrong_inbox", keys.message("loja-aurora", 2)),
        ("unreadable", pointer),
        ("immortal", immortal),
        ("immortal", keys.message("loja-aurora", 4)),
        ("wrong_type", keys.message("loja-aurora", 4)),
        ("foreign", f"{root}\\xff%zz"),
    }
    table = await program("audit")
    assert table.code == 1
    assert "bindings set ACCOUNT/INBOX INSTANCE" in table.out


async def test_what_another_prefix_holds_is_none_of_its_business(
    program: Program, rig: Harness, prefix: str
) -> None:
    await rig.client.set(f"{prefix}x:chatwoot:a:message:1", "x", ex=60)
    await rig.client.set(f"x{prefix}:chatwoot:a:message:1", "x", ex=60)

    assert (await program("audit")).code == 0
