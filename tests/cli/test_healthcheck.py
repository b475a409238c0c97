"""What `healthcheck` makes of a live, a stalled, a silent and a foreign port."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.serving import served
from worker.__main__ import parser
from worker.cli import healthcheck
from worker.ops.health import Health, Readiness
from worker.ops.metrics import Metrics
from worker.ops.probes import ops_app
from worker.web.server import bind, bound_port


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """Give a port that accepts and never answers."""
    with bind("127.0.0.1", 0, name="OPS") as sock:
        yield sock


@dataclass(frozen=True)
class FakeHealth(Health):
    why: str | None

    def stalled(self) -> str | None:
        return self.why

    async def readiness(self) -> Readiness:
        return Readiness(ready=False, remark="not asked")


@dataclass(frozen=True)
class Settings:
    ops_host: str
    ops_port: int


@dataclass(frozen=True)
class Loaded:
    settings: Settings


async def ask(host: str, port: int) -> tuple[int, str]:
    return await anyio.to_thread.run_sync(healthcheck.check_liveness, host, port)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", ""])
async def test_a_live_worker_is_0(host: str) -> None:
    async with served(ops_app(FakeHealth(None), Metrics("1", 1))) as at:
        assert await ask(host, at.port) == (0, "ok")


async def test_a_stalled_worker_is_1_with_its_reason() -> None:
    async with served(ops_app(FakeHealth("no progress for 90 s"), Metrics("1", 1))) as at:
        assert await ask("127.0.0.1", at.port) == (1, "stalled: no progress for 90 s")


@pytest.mark.parametrize("text", ["hello", "[]", '"status"', "{}", "null"])
async def test_another_program_on_the_port_is_1(text: str) -> None:
    async def livez(_request: object) -> PlainTextResponse:
        return PlainTextResponse(text)

    async with served(Starlette(routes=[Route("/livez", livez)])) as at:
        code, said = await ask("127.0.0.1", at.port)

    assert (code, said) == (1, "status code 200 from something that is not this worker")


def test_a_port_that_never_answers_is_1(listening: socket.socket) -> None:
    port = bound_port(listening)

    code, said = healthcheck.check_liveness("127.0.0.1", port, timeout_s=0.05)

    assert (code, said) == (1, f"no answer from 127.0.0.1 port {port}: timed out")


def test_the_command_prints_why_and_exits_1(
    listening: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    port = bound_port(listening)
    listening.close()
    args = parser(["healthcheck"]).parse_args(["healthcheck"])

    assert args.func(args, Loaded(Settings("127.0.0.1", port))) == 1
    assert capsys.readouterr().out.startswith(f"no answer from 127.0.0.1 port {port}: ")


def test_a_healthcheck_loads_nothing_it_does_not_need(tmp_path: Path) -> None:
    """It runs every few seconds, also on small machines."""
    script = (
        "import sys; from worker.__main__ import main; main(['healthcheck']);"
        "sys.exit(' '.join({'anyio', 'redis', 'rich', 'starlette', 'uvicorn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"CACHE_REDIS_URI": "redis://127.0.0.1:1/0", "CHATWOOT_CACHE_OPS_PORT": "1"},
        capture_output=True,
        check=False,
        timeout=30,
    )

    assert done.stderr.strip() == b""
