"""The local tier by itself: what it keeps, for how long, and what it must not keep."""

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
    """A local tier that is trusted for long."""

    clock: Clock = field(default_factory=Clock)
    max_bytes: int = 1_000_000

    def __post_init__(self) -> None:
        self.local = LocalCache(self.max_bytes, 60.0, self.clock)
        self.local.extend_validity(1e9)

    def keep(self, key: str, value: object = "text", life_s: float | None = None) -> None:
        """Keep a value as if it was just read."""
        with self.local.reading() as keep:
            keep(key, ReadValue(value, 10, life_s))

    def has(self, key: str) -> bool:
        """Whether a key is answered from memory."""
        return self.local.get(key) is not None


@pytest.fixture
def tier() -> Tier:
    return Tier()


def test_keeps_what_was_read_and_what_was_not_there(tier: Tier) -> None:
    tier.keep("a", "text")
    tier.keep("b", None)
    a, b = tier.local.get("a"), tier.local.get("b")

    assert a is not None
    assert a.value == "text"
    assert b is not None
    assert b.value is None
    assert tier.local.get("c") is None


def test_forgets_what_was_written(tier: Tier) -> None:
    tier.keep("a")
    tier.keep("b")
    tier.local.invalidate(["a", "other"])

    assert not tier.has("a")
    assert tier.has("b")


def test_does_not_keep_what_was_written_while_it_was_read(tier: Tier) -> None:
    """The news may overtake the reply, which is older."""
    with tier.local.reading() as keep:
        tier.local.invalidate(["a"])
        keep("a", ReadValue("old", 3, None))
        keep("b", ReadValue("as it is", 8, None))

    assert not tier.has("a")
    assert tier.has("b")


def test_a_read_that_begins_after_the_news_is_kept_beside_one_that_began_before(
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
def test_does_not_keep_what_was_being_read_when_all_was_forgotten(tier: Tier, drop: str) -> None:
    with tier.local.reading() as keep:
        getattr(tier.local, drop)()
        tier.local.extend_validity(1e9)
        keep("a", ReadValue("old", 3, None))

    assert not tier.has("a")


def test_too_much_news_during_a_read_keep_it_out(
    tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered of writes is bounded; in doubt nothing is kept."""
    monkeypatch.setattr("worker.store.cache.local_cache._MAX_INVALIDATED", 3)
    with tier.local.reading() as keep:
        tier.local.invalidate(["a", "b", "c", "d"])
        keep("a", ReadValue("old", 3, None))
        keep("z", ReadValue("innocent", 3, None))

    assert not tier.has("a")
    assert not tier.has("z")


def test_answers_nothing_unless_trusted(tier: Tier) -> None:
    tier.keep("a")
    tier.clock.now = 1e9
    assert not tier.has("a")


def test_forgets_all_once_trust_is_gone(tier: Tier) -> None:
    tier.keep("a")
    tier.local.reset()
    assert not tier.has("a")

    tier.local.extend_validity(1e9)
    assert not tier.has("a")
    tier.keep("a")
    assert tier.has("a")


def test_does_not_keep_what_was_read_before_it_was_trusted() -> None:
    """Invalidations of earlier writes would not have arrived."""
    local = LocalCache(1_000_000, 60.0, Clock())
    with local.reading() as keep:
        local.extend_validity(1e9)
        keep("a", ReadValue("old", 3, None))

    assert local.get("a") is None


@pytest.mark.parametrize(("life_s", "stays_s"), [(None, 60), (5.0, 5), (600.0, 60)])
def test_nothing_outlives_its_key(tier: Tier, life_s: float | None, stays_s: int) -> None:
    """The server tells of an expiry late, when it happens to look."""
    tier.keep("a", life_s=life_s)
    tier.clock.now += stays_s - 0.1
    assert tier.has("a")

    tier.clock.now += 0.1
    assert not tier.has("a")
    assert len(tier.local) == 0


def test_a_value_lives_from_when_it_was_asked_for(tier: Tier) -> None:
    """The reply may have been long on the way."""
    with tier.local.reading() as keep:
        tier.clock.now += 4
        keep("a", ReadValue("text", 3, 5.0))
    tier.clock.now += 1.5

    assert not tier.has("a")


def test_a_hashs_fields_go_together(tier: Tier) -> None:
    """News name the hash, not the field."""
    before = tier.local.field_key("accounts", "shop")
    tier.keep(before)
    assert tier.local.field_key("accounts", "shop") == before
    assert tier.local.field_key("accounts", "bakery") != before

    tier.local.invalidate(["accounts"])
    assert not tier.has(tier.local.field_key("accounts", "shop"))


def test_the_least_recently_used_go_first() -> None:
    tier = Tier(max_bytes=2500)
    for key in "abc":
        tier.keep(key)
    tier.has("a")
    tier.keep("d")

    assert [key for key in "abcd" if tier.has(key)] == ["a", "c", "d"]


def test_what_is_larger_than_all_is_not_kept() -> None:
    tier = Tier(max_bytes=1000)
    with tier.local.reading() as keep:
        keep("a", ReadValue("x" * 2000, 2000, None))

    assert not tier.has("a")


def test_memory_stays_within_its_bound() -> None:
    """What is counted is at least what is taken."""
    tier = Tier(max_bytes=4_000_000)
    tracemalloc.start()
    for number in range(20_000):
        tier.keep(f"prefix:chatwoot:instance:message:{number}", b"x" * 10)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert 2_000 < len(tier.local) < 20_000  # so it was full
    assert taken < 4_000_000
