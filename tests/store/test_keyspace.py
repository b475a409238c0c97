"""Walking a namespace on a real server: exactly its own keys, whatever others are called."""

import random
from collections.abc import AsyncIterator

import pytest
from hypothesis import Phase, given, settings, strategies as st

from tests.core.glob import matches
from tests.core.names import ADVERSARIAL, names
from worker.core.cache_keys import CacheKeys, ParsedKey, is_nested_prefix
from worker.settings.map_values import is_valid_name
from worker.store.cache.keyspace import Keyspace
from worker.store.client import Client


def keys_of(keys: CacheKeys, instance: str) -> set[str]:
    return {
        keys.message(instance, 1),
        keys.conversation(instance, 1),
        keys.timeline(instance, 1),
        keys.source(instance, "*:[a]"),
        keys.contact(instance, ""),
    }


@pytest.fixture
async def written(client: Client, prefix: str) -> AsyncIterator[dict[str, set[str]]]:
    """Keys of five hundred instances, unkind neighbours of each other."""
    chosen = random.Random(1)
    unkind = ":*?[]{}%\\^-!/ ab1é😀"
    more = {"".join(chosen.choices(unkind, k=chosen.randint(1, 6))) for _ in range(450)}
    keys = CacheKeys(prefix)
    made = {name: keys_of(keys, name) for name in {*ADVERSARIAL, *more}}
    async with client.pipeline(transaction=False) as pipeline:
        for some in made.values():
            for key in some:
                pipeline.set(key, "x", ex=600)
        await pipeline.execute()
    yield made
    for some in made.values():
        await client.delete(*some)


async def test_a_servers_scan_finds_exactly_an_instances_keys(
    client: Client, prefix: str, written: dict[str, set[str]]
) -> None:
    """And says the same as the model that the properties below are proven by."""
    keys = CacheKeys(prefix)
    every = {key for some in written.values() for key in some}
    for name in list(written)[::5]:
        pattern = keys.instance_pattern(name)
        found = {key.decode() async for key in client.scan_iter(pattern, count=10_000)}

        assert found == written[name]
        assert {key for key in every if matches(pattern.encode(), key.encode())} == found


async def test_a_walk_takes_one_instance_and_leaves_all_others(
    client: Client, prefix: str, written: dict[str, set[str]]
) -> None:
    namespace = Keyspace(client, prefix)
    for name in list(written)[::40]:
        found = {
            key.decode()
            async for places in namespace.places(lambda _: None, instances={name})
            for key, _ in places
        }
        assert found == written[name]
        assert {p.instance for k in found if (p := namespace.keys.parse(k.encode()))} == {name}


@settings(
    max_examples=40,
    deadline=None,
    phases=(Phase.reuse, Phase.generate),
)
@given(st.sets(names().filter(is_valid_name), min_size=2, max_size=40))
def test_in_the_model_no_set_of_names_makes_a_pattern_reach_another(chosen: set[str]) -> None:
    keys = CacheKeys("p")
    made = {name: {key.encode() for key in keys_of(keys, name)} for name in chosen}
    for name in chosen:
        pattern = keys.instance_pattern(name).encode()
        assert all(matches(pattern, key) for key in made[name])
        others = (key for other in chosen - {name} for key in made[other])
        assert not any(matches(pattern, key) for key in others)


@given(
    names().filter(is_valid_name),
    names(min_size=0),
    st.sampled_from(["message", "source", "contact"]),
)
def test_a_key_is_read_as_what_it_was_built_for(instance: str, name: str, kind: str) -> None:
    keys = CacheKeys("a:b")
    built = keys.message(instance, 7) if kind == "message" else getattr(keys, kind)(instance, name)
    place = keys.parse(built.encode())

    assert place == (instance, kind, "7" if kind == "message" else name)


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_what_was_not_built_is_not_read(rest: bytes) -> None:
    keys = CacheKeys("p")
    place = keys.parse(b"p:chatwoot:" + rest)
    if place is not None:
        assert rebuilt(keys, place).encode() == b"p:chatwoot:" + rest


def rebuilt(keys: CacheKeys, place: ParsedKey) -> str:
    """Build the key of a place again."""
    by_name = {"source": keys.source, "contact": keys.contact}
    if build := by_name.get(place.kind):
        return build(place.instance, place.id)
    by_id = {
        "message": keys.message,
        "conversation": keys.conversation,
        "timeline": keys.timeline,
        "start": keys.start,
    }
    return by_id[place.kind](place.instance, int(place.id))


@pytest.mark.parametrize(
    "key",
    [
        "p:chatwoot:",
        "p:chatwoot:%bindings",
        "p:chatwoot:a",
        "p:chatwoot:a:message:01",
        "p:chatwoot:a:message:-1",
        "p:chatwoot:a:message:x",
        "p:chatwoot:a:message:1:messages",
        "p:chatwoot:a:conversation:1:message",
        "p:chatwoot:a%3a:message:1",
        "p:chatwoot:a*:message:1",
        "p:chatwoot:a:note:1",
        "p:chatwoot::message:1",
        "xp:chatwoot:a:message:1",
        "p:chatwoot:p:chatwoot:a:message:1",
    ],
)
def test_keys_that_look_like_ours_are_not(key: str) -> None:
    assert CacheKeys("p").parse(key.encode()) is None


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("a:chatwoot:b", True),
        ("a:chatwoot", True),
        ("chatwoot", False),
        ("chatwoot:a", False),
        ("a:chatwoots:b", False),
        ("chatwoot-cache", False),
    ],
)
def test_a_prefix_never_stands_among_anothers_keys(prefix: str, *, expected: bool) -> None:
    """Without this, `a` with an instance `b` would reach the keys of prefix `a:chatwoot:b`."""
    assert is_nested_prefix(prefix) is expected
