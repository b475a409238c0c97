"""What cannot be asked for is told apart from what is not there."""

import pytest

from tests.cli.conftest import Program
from tests.consumer.harness import Harness
from worker.core.binding_rules import Bindings
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_writer import CacheSettings


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["", "message", "1"], "INSTANCE must be 1 to 255 bytes"),
        (["loja", "message", "-1"], "'-1' is not a valid Chatwoot id"),
        (["loja", "conversation", "9" * 23], "is not a valid Chatwoot id"),
        (["loja", "messages", "1", "--limit", "201"], "--limit must be 1 to 200"),
    ],
)
async def test_wrong_use_is_told(program: Program, arguments: list[str], said: str) -> None:
    done = await program("get", *arguments)

    assert (done.code, done.out) == (2, "")
    assert said in done.err


async def test_what_is_not_cached_is_1(idle_rig: Harness, program: Program) -> None:
    await bind(idle_rig, "loja")
    done = await program("get", "loja", "message", "1")

    assert (done.code, done.err) == (1, "chatwoot-cache: the cache of 'loja' has no message 1\n")


async def test_an_unknown_instance_is_named_as_such(idle_rig: Harness, program: Program) -> None:
    """With those that are known, for it may be a misspelling."""
    none = await program("get", "lja", "message", "1")
    await bind(idle_rig, *(f"loja {number:02}" for number in range(12)))
    for arguments in (
        ("get", "lja", "message", "1"),
        ("dead", "list", "--instance", "lja"),
        ("purge", "lja"),
        ("backfill", "lja"),
    ):
        done = await program(*arguments)
        assert "instance 'lja' is not known: known are 'loja 00', 'loja 01'" in done.err, arguments
        assert "'loja 09' and 2 more" in done.err

    assert (none.code, none.err) == (
        1,
        "chatwoot-cache: instance 'lja' is not known: no inbox is bound to an instance\n",
    )


async def bind(rig: Harness, *instances: str) -> None:
    """Bind an inbox to each instance."""
    prefix = rig.documents.keys.root.removesuffix(":chatwoot:")
    table = BindingTable(rig.client, CacheSettings(prefix))
    inboxes = {f"3/{number}": name for number, name in enumerate(instances, 1)}
    await table.put(Bindings.of_operator(inboxes))
