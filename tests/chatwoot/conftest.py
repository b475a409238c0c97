"""Both APIs for a test, and the commands that are tried on them."""

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
    with Chatwoot() as stand_in:
        yield stand_in


@pytest.fixture
def evolution() -> Iterator[Evolution]:
    with Evolution() as stand_in:
        yield stand_in


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Said]


@pytest.fixture
def command(
    redis_uri: str,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Command:
    """Run a command in an empty folder, on a cache and a stream of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CACHE_REDIS_URI", redis_uri)
    monkeypatch.setenv("CACHE_REDIS_PREFIX_KEY", prefix)
    monkeypatch.setenv("CHATWOOT_CACHE_STREAM_KEY", f"{prefix}:events")

    def run(*arguments: str) -> Said:
        capfd.readouterr()
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return Said(code, out, err)

    return run


@pytest.fixture
def bindings(redis_uri: str, prefix: str) -> Iterator[Callable[[], dict[str, str]]]:
    """What is bound now."""
    with redis.Redis.from_url(redis_uri) as client:

        def read() -> dict[str, str]:
            held: Any = client.hgetall(f"{prefix}:chatwoot:%bindings")
            return {inbox.decode(): instance.decode() for inbox, instance in held.items()}

        yield read


@pytest.fixture
def keys(redis_uri: str, prefix: str) -> Iterator[Callable[[], set[bytes]]]:
    """Every key that has the test's name."""
    with redis.Redis.from_url(redis_uri) as client:
        yield lambda: set(client.scan_iter(f"{prefix}*", count=1000))
