"""Commands run in this process, on a place of the test's own."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from tests.consumer.harness import Harness, harnessed
from tests.waiting import wait_until
from worker.__main__ import main


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[Any]:
        """What it printed as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


class Program:
    """`chatwoot-cache`, without a process of its own."""

    def __init__(self, read: Callable[[], tuple[str, str]]) -> None:
        self._read = read

    async def __call__(self, *arguments: str) -> Done:
        """Run a command to its end."""
        self._read()
        try:
            code = await anyio.to_thread.run_sync(main, arguments)
        except SystemExit as error:
            code = int(error.code or 0)
        return Done(code, *self._read())


@pytest.fixture
def program(
    redis_uri: str,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Program:
    """The commands, with settings that lead to the rig's place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CACHE_REDIS_URI", redis_uri)
    monkeypatch.setenv("CACHE_REDIS_PREFIX_KEY", prefix)
    monkeypatch.setenv("CHATWOOT_CACHE_STREAM_KEY", f"{prefix}:events")
    monkeypatch.setenv("CHATWOOT_CACHE_STREAM_GROUP", "g")
    return Program(capsys.readouterr)


@pytest.fixture
async def idle_rig(redis_uri: str, prefix: str) -> AsyncIterator[Harness]:
    """A worker at the same place that does not work yet."""
    async with harnessed(redis_uri, prefix) as made:
        yield made


@pytest.fixture
async def rig(redis_uri: str, prefix: str) -> AsyncIterator[Harness]:
    """A worker at the same place."""
    async with harnessed(redis_uri, prefix) as made, made.running():
        yield made


async def settled(rig: Harness) -> None:
    """Wait until the worker has nothing to do."""
    await wait_until(rig.is_idle, "everything is settled")
