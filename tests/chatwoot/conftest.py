"""Fakes of both APIs, and commands run against them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.fakes.chatwoot import Chatwoot
from tests.fakes.evolution import Evolution
from worker.__main__ import main


@pytest.fixture
def chatwoot() -> Iterator[Chatwoot]:
    with Chatwoot() as server:
        yield server


@pytest.fixture
def evolution() -> Iterator[Evolution]:
    with Evolution() as server:
        yield server


@dataclass(frozen=True)
class CommandResult:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., CommandResult]


@pytest.fixture
def command(
    redis_uri: str,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Command:
    """Run commands in an empty directory, with the test's own cache and stream."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CACHE_REDIS_URI", redis_uri)
    monkeypatch.setenv("CACHE_REDIS_PREFIX_KEY", prefix)
    monkeypatch.setenv("CHATWOOT_CACHE_STREAM_KEY", f"{prefix}:events")

    def run(*arguments: str) -> CommandResult:
        capfd.readouterr()
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return CommandResult(code, out, err)

    return run


@pytest.fixture
def bindings(redis_uri: str, prefix: str) -> Iterator[Callable[[], dict[str, str]]]:
    """The current bindings."""
    with redis.Redis.from_url(redis_uri) as client:

        def read() -> dict[str, str]:
            stored: Any = client.hgetall(f"{prefix}:chatwoot:%bindings")
            return {inbox.decode(): instance.decode() for inbox, instance in stored.items()}

        yield read


@pytest.fixture
def keys(redis_uri: str, prefix: str) -> Iterator[Callable[[], set[bytes]]]:
    """Every key of the test's prefix."""
    with redis.Redis.from_url(redis_uri) as client:
        yield lambda: set(client.scan_iter(f"{prefix}*", count=1000))
