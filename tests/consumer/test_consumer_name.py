"""Who else uses our consumer name is told from how long the server saw it idle."""

from collections.abc import Iterable
from typing import cast

import pytest

from worker.consumer import consumer_name
from worker.consumer.consumer_name import ensure_unique
from worker.consumer.entry_stream import EntryStream
from worker.consumer.retry import Retry
from worker.errors import ConfigurationError, RedisUnavailable
from worker.ops.metrics import Metrics


class Clock:
    """Seconds that pass only while somebody waits, by the same clock for all."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Waiting(Retry):
    """Waits in no time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Metrics("0", 200), on_group_missing=nothing)
        self._clock = clock

    async def pause(self, seconds: float) -> bool:
        self._clock.now += seconds
        return False


class Seen:
    """A name that is used at given seconds; an outage is seen once, when it is due."""

    def __init__(
        self,
        clock: Clock,
        used_at: Iterable[float],
        outages_at: Iterable[float] = (),
        delays: Iterable[float] = (),
    ) -> None:
        self._clock = clock
        self._delays = iter(delays)
        self._used_at = sorted(used_at)
        self._outages_at = sorted(outages_at)

    async def consumer_idle_ms(self) -> int | None:
        now = self._clock.now - 1000
        if self._outages_at and self._outages_at[0] <= now:
            self._outages_at.pop(0)
            raise RedisUnavailable("connection", "gone")
        self._clock.now += next(self._delays, 0.0)
        uses = [at for at in self._used_at if at <= now]
        return round(1000 * (now - uses[-1])) if uses else None


async def nothing() -> None:
    """No group is missing here."""


@pytest.mark.parametrize(
    ("used_at", "outages_at"),
    [
        ([], []),
        ([-10.0], []),
        ([-0.1], []),  # killed just now
        ([-0.1, 0.35], []),  # and the server restarted, so fast that nobody saw it go
        ([-0.1, 0.35, 0.8], [0.3, 0.7]),  # or again and again, for everybody to see
    ],
)
async def test_a_name_that_nobody_uses_any_more_is_free(
    monkeypatch: pytest.MonkeyPatch, used_at: list[float], outages_at: list[float]
) -> None:
    clock = Clock()
    monkeypatch.setattr(consumer_name, "time", clock)

    seen = Seen(clock, used_at, outages_at)
    await ensure_unique(cast("EntryStream", seen), Waiting(clock), "worker-1")


async def test_answers_that_take_ever_longer_are_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(consumer_name, "time", clock)

    seen = Seen(clock, [-0.1], delays=[0.0, 0.2, 0.4, 0.6, 0.8])
    await ensure_unique(cast("EntryStream", seen), Waiting(clock), "worker-1")


@pytest.mark.parametrize("outages_at", [[], [0.2]])
async def test_a_name_that_a_heartbeat_keeps_is_taken(
    monkeypatch: pytest.MonkeyPatch, outages_at: list[float]
) -> None:
    clock = Clock()
    monkeypatch.setattr(consumer_name, "time", clock)
    beats = [consumer_name.HEARTBEAT_S * number for number in range(-1, 20)]

    seen = cast("EntryStream", Seen(clock, beats, outages_at))
    with pytest.raises(ConfigurationError, match="CHATWOOT_CACHE_STREAM_CONSUMER"):
        await ensure_unique(seen, Waiting(clock), "worker-1")
