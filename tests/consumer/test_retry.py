"""Waiting for Redis: who waits for the end of an outage goes on, whatever ended it."""

import anyio
import pytest
from structlog.testing import capture_logs

from tests.waiting import wait_until
from worker.consumer.retry import Retry
from worker.errors import RedisUnavailable
from worker.ops.metrics import Metrics


async def nothing() -> None:
    """No group is missing here."""


async def test_an_outage_that_ends_in_a_defect_is_over_too() -> None:
    """Or the reader would wait for good, once Redis came back with an error nobody knows."""
    patience = Retry(Metrics("0", 200), on_group_missing=nothing)
    errors = iter([RedisUnavailable("timeout", "no answer"), ZeroDivisionError()])

    async def step() -> None:
        raise next(errors)

    async def meet_a_defect() -> None:
        with pytest.raises(ZeroDivisionError):
            await patience.call(step)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(meet_a_defect)
            await wait_until(lambda: patience.outage, "the outage is seen")
            await patience.wait_until_healthy()

    assert patience.outage is None


async def test_outages_that_come_one_after_another_are_one_pair_of_lines() -> None:
    patience = Retry(Metrics("0", 200), on_group_missing=nothing)
    with capture_logs() as lines:
        for _ in range(3):
            errors = [RedisUnavailable("connection", "cut")]

            async def step(errors: list[RedisUnavailable] = errors) -> None:
                if errors:
                    raise errors.pop()

            await patience.call(step)

    assert [line["event"] for line in lines] == ["redis.unavailable", "redis.recovered"]
