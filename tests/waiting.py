"""Waiting for a condition, instead of sleeping and hoping."""

import inspect
from collections.abc import Callable
from typing import Final

import anyio

POLL_S: Final = 0.005


async def wait_until(
    predicate: Callable[[], object], description: str, *, timeout_s: float = 5.0
) -> None:
    """Return once `predicate` gives something true; it may be a plain or an async function.

    After `timeout_s` seconds the test fails with `description`, which says what was awaited.
    An exception of the predicate is the test's.
    """
    with anyio.move_on_after(timeout_s):
        while not await _value(predicate):  # noqa: ASYNC110  (servers set no Event of ours)
            await anyio.sleep(POLL_S)

        return

    raise AssertionError(f"not within {timeout_s} s: {description}")


async def _value(predicate: Callable[[], object]) -> object:
    value = predicate()

    return await value if inspect.isawaitable(value) else value
