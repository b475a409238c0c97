"""Bindings in Redis, against a real server."""

import pytest

from worker.core.binding_rules import BindingClaim, Bindings
from worker.core.cache_keys import CacheKeys
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_writer import CacheSettings
from worker.store.client import Client


@pytest.fixture
def table(client: Client, prefix: str) -> BindingTable:
    return BindingTable(client, CacheSettings(prefix, ttl_s=1000))


async def test_the_first_claim_is_granted_and_the_others_are_told(table: BindingTable) -> None:
    """In one step, in order; by name alone an instance gets one inbox, else one account."""
    stand = await table.claim(
        [
            BindingClaim(3, 12, "loja", further=False),
            BindingClaim(3, 12, "outra", further=True),
            BindingClaim(3, 13, "loja", further=False),
            BindingClaim(3, 14, "loja", further=True),
            BindingClaim(4, 15, "loja", further=True),
        ]
    )

    assert stand == Bindings({"3/12": "loja", "3/14": "loja"}, {"loja": 3})
    assert await table.load() == stand


async def test_bindings_outlive_every_document(
    table: BindingTable, client: Client, prefix: str
) -> None:
    """Tombstones, too, which live a day longer than the time to live; reading renews both."""
    keys = CacheKeys(prefix)
    await table.put(Bindings({"3/12": "loja"}, {"loja": 3}))
    for key in (keys.bindings, keys.accounts):
        await client.expire(key, 5)
    await table.load()

    for key in (keys.bindings, keys.accounts):
        assert await client.ttl(key) > 1000 + 86_400


async def test_the_version_changes_with_what_a_copy_would_have_wrong(
    table: BindingTable, client: Client, prefix: str
) -> None:
    """Not with what is added by a claim: what a copy does not know is claimed."""
    assert (await table.load()).version == b""
    assert await client.exists(CacheKeys(prefix).version) == 0
    versions = [(await table.claim([BindingClaim(3, 12, "loja", further=False)])).version]
    assert (await table.claim([BindingClaim(3, 14, "site", further=False)])).version == b""
    assert await table.version() == versions[0]

    assert await table.put(Bindings.of_operator({"3/12": "loja"})) == {}
    assert await table.version() == versions[0]
    assert await table.put(Bindings.of_operator({"3/15": "site"})) == {}
    versions.append(await table.version())
    assert await table.put(Bindings.of_operator({"3/12": "outra"})) == {"3/12": "loja"}
    versions.append(await table.version())
    assert await table.drop("3/12") == {"3/12": "outra"}
    versions.append(await table.version())
    assert await table.drop("3/12") == {}
    assert await table.version() == versions[-1]
    await client.delete(CacheKeys(prefix).version)
    versions.append((await table.load()).version)

    assert all(versions)
    assert len(set(versions)) == 5


async def test_an_instance_without_inboxes_is_free_for_any_account(table: BindingTable) -> None:
    await table.put(Bindings.of_operator({"3/12": "loja", "3/13": "loja"}))
    claim = BindingClaim(4, 20, "loja", further=True)

    await table.drop("3/12")
    assert (await table.claim([claim])).accounts == {"loja": 3}
    await table.put(Bindings.of_operator({"3/13": "outra"}))
    assert await table.claim([claim]) == Bindings({"4/20": "loja"}, {"loja": 4})


async def test_fields_that_nobody_of_ours_wrote_are_passed_over(
    table: BindingTable, client: Client, prefix: str
) -> None:
    """One wrong field must not stop every worker."""
    keys = CacheKeys(prefix)
    await table.put(Bindings({"3/12": "loja"}, {"loja": 3}))
    await client.hset(keys.bindings, mapping={"x": "y", "3/": "y"})
    await client.hset(keys.accounts, mapping={"y": "z"})

    assert await table.load() == Bindings({"3/12": "loja"}, {"loja": 3})
