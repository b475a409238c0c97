"""The local tier alone: what it stores, for how long, and what it must not store."""

import tracemalloc
from dataclasses import dataclass, field

import pytest

from worker.store.cache.local_cache import LocalCache
from worker.store.cache.value_reader import ReadValue


@dataclass
class Clock:
    """A clock to set."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Tier:
    """A local tier that stays valid."""

    clock: Clock = field(default_factory=Clock)
    max_bytes: int = 1_000_000

    def __post_init__(self) -> None:
        self.local = LocalCache(self.max_bytes, 60.0, self.clock)
        self.local.extend_validity(1e9)

    def store(self, key: str, value: object = "text", ttl_s: float | None = None) -> None:
        """Store a value as if it had just been read."""
        with self.local.reading() as store:
            store(key, ReadValue(value, 10, ttl_s))

    def has(self, key: str) -> bool:
        """Whether a key is answered from memory."""
        return self.local.get(key) is not None


@pytest.fixture
def tier() -> Tier:
    return Tier()


def test_stores_values_and_missing_keys(tier: Tier) -> None:
    tier.store("a", "text")
    tier.store("b", None)
    a, b = tier.local.get("a"), tier.local.get("b")

    assert a is not None
    assert a.value == "text"
    assert b is not None
    assert b.value is None
    assert tier.local.get("c") is None


def test_drops_invalidated_keys(tier: Tier) -> None:
    tier.store("a")
    tier.store("b")
    tier.local.invalidate(["a", "other"])

    assert not tier.has("a")
    assert tier.has("b")


def test_does_not_store_a_key_that_was_invalidated_during_the_read(tier: Tier) -> None:
    """The invalidation may arrive before the reply, which is older."""
    with tier.local.reading() as store:
        tier.local.invalidate(["a"])
        store("a", ReadValue("old", 3, None))
        store("b", ReadValue("as it is", 8, None))

    assert not tier.has("a")
    assert tier.has("b")


def test_a_read_that_began_after_the_invalidation_is_stored_beside_an_earlier_one(
    tier: Tier,
) -> None:
    with tier.local.reading() as early:
        tier.local.invalidate(["a"])
        with tier.local.reading() as late:
            late("a", ReadValue("new", 3, None))
        early("a", ReadValue("old", 3, None))
    held = tier.local.get("a")

    assert held is not None
    assert held.value == "new"


@pytest.mark.parametrize("drop", ["reset", "clear"])
def test_does_not_store_what_was_being_read_during_a_reset(tier: Tier, drop: str) -> None:
    with tier.local.reading() as store:
        getattr(tier.local, drop)()
        tier.local.extend_validity(1e9)
        store("a", ReadValue("old", 3, None))

    assert not tier.has("a")


def test_a_read_with_too_many_invalidations_is_not_stored(
    tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of remembered invalidations is bounded."""
    monkeypatch.setattr("worker.store.cache.local_cache._MAX_INVALIDATED", 3)
    with tier.local.reading() as store:
        tier.local.invalidate(["a", "b", "c", "d"])
        store("a", ReadValue("old", 3, None))
        store("z", ReadValue("innocent", 3, None))

    assert not tier.has("a")
    assert not tier.has("z")


def test_answers_nothing_unless_valid(tier: Tier) -> None:
    tier.store("a")
    tier.clock.now = 1e9
    assert not tier.has("a")


def test_a_reset_drops_everything(tier: Tier) -> None:
    tier.store("a")
    tier.local.reset()
    assert not tier.has("a")

    tier.local.extend_validity(1e9)
    assert not tier.has("a")
    tier.store("a")
    assert tier.has("a")


def test_does_not_store_what_was_read_before_it_was_valid() -> None:
    """Invalidations of earlier writes would not have arrived."""
    local = LocalCache(1_000_000, 60.0, Clock())
    with local.reading() as store:
        local.extend_validity(1e9)
        store("a", ReadValue("old", 3, None))

    assert local.get("a") is None


@pytest.mark.parametrize(("ttl_s", "expected_s"), [(None, 60), (5.0, 5), (600.0, 60)])
def test_nothing_outlives_its_key(tier: Tier, ttl_s: float | None, expected_s: int) -> None:
    """The server reports an expiry late: when it notices it."""
    tier.store("a", ttl_s=ttl_s)
    tier.clock.now += expected_s - 0.1
    assert tier.has("a")

    tier.clock.now += 0.1
    assert not tier.has("a")
    assert len(tier.local) == 0


def test_a_ttl_counts_from_when_the_command_was_sent(tier: Tier) -> None:
    """The reply may be delayed."""
    with tier.local.reading() as store:
        tier.clock.now += 4
        store("a", ReadValue("text", 3, 5.0))
    tier.clock.now += 1.5

    assert not tier.has("a")


def test_an_invalidated_hash_drops_all_its_fields(tier: Tier) -> None:
    """Invalidations name the hash, not the field."""
    before = tier.local.field_key("accounts", "shop")
    tier.store(before)
    assert tier.local.field_key("accounts", "shop") == before
    assert tier.local.field_key("accounts", "bakery") != before

    tier.local.invalidate(["accounts"])
    assert not tier.has(tier.local.field_key("accounts", "shop"))


def test_least_recently_used_items_are_evicted_first() -> None:
    tier = Tier(max_bytes=2500)
    for key in "abc":
        tier.store(key)
    tier.has("a")
    tier.store("d")

    assert [key for key in "abcd" if tier.has(key)] == ["a", "c", "d"]


def test_a_value_larger_than_the_cache_is_not_stored() -> None:
    tier = Tier(max_bytes=1000)
    with tier.local.reading() as store:
        store("a", ReadValue("x" * 2000, 2000, None))

    assert not tier.has("a")


def test_memory_stays_within_its_bound() -> None:
    """The counted size is at least the real one."""
    tier = Tier(max_bytes=4_000_000)
    tracemalloc.start()
    for number in range(20_000):
        tier.store(f"prefix:chatwoot:instance:message:{number}", b"x" * 10)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert 2_000 < len(tier.local) < 20_000  # so it was full
    assert taken < 4_000_000
