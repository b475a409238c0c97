"""Starting, stopping and failing to start, on both event loops."""

import errno
import signal
import socket
from functools import partial
from typing import Any, Literal

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.serving import Served, read_all, served
from worker.errors import ConfigurationError
from worker.ops.metrics import Metrics
from worker.web import server
from worker.web.connection_monitor import ConnectionMonitor
from worker.web.http_protocol import PortLimits
from worker.web.server import bind, bound_port

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


class Slow:
    """An application that answers once `go` is set."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.go = anyio.Event()
        self.cancelled = False
        self.app = Starlette(routes=[Route("/", self.answer)])

    async def answer(self, _request: Request) -> Response:
        self.asked.set()
        try:
            await self.go.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled = True
            raise
        return PlainTextResponse("done")


def fast() -> Starlette:
    async def answer(_request: Request) -> Response:
        return PlainTextResponse("done")

    return Starlette(routes=[Route("/", answer)])


async def is_refused(at: Served) -> bool:
    try:
        async with await at.connect():
            return False
    except OSError:
        return True


async def test_it_accepts_once_it_has_started() -> None:
    async with served(fast()) as at, httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{at.port}/")

    assert (answer.status_code, answer.text) == (200, "done")
    assert "server" not in answer.headers


async def test_a_connection_serves_several_requests() -> None:
    async with served(fast()) as at, await at.connect() as connection:
        for _ in range(2):
            await connection.send(GET)
            assert (await connection.receive()).startswith(b"HTTP/1.1 200")


async def test_invalid_http_is_answered_400() -> None:
    async with served(fast()) as at:
        assert (await at.ask(b"\x16\x03\x01 hello\r\n\r\n")).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("head", [b"", b"GET / HT", GET + b"GET / HTTP/1.1\r\nHost:"])
async def test_a_head_that_does_not_arrive_closes_the_connection(head: bytes) -> None:
    async with served(fast(), head_s=0.05) as at:
        answer = await at.ask(head)

    assert answer.count(b"HTTP/1.1 200") == head.count(GET)


async def test_a_partial_pipelined_request_does_not_end_the_one_before() -> None:
    slow = Slow()
    async with served(slow.app, head_s=0.02) as at, await at.connect() as connection:
        await connection.send(GET + b"GET / HT")
        await slow.asked.wait()
        # Returns after its time limit, and so after that of the partial head.
        await at.ask(b"")
        slow.go.set()

        assert (await read_all(connection)).endswith(b"done")


async def test_signal_handlers_are_not_changed() -> None:
    before = signal.getsignal(signal.SIGTERM)

    async with served(fast()):
        assert signal.getsignal(signal.SIGTERM) is before


async def test_stopping_finishes_requests_and_accepts_no_more() -> None:
    slow = Slow()
    async with served(slow.app, grace_s=5) as at, await at.connect() as connection:
        await connection.send(GET)
        await slow.asked.wait()
        at.stop.set()
        with anyio.fail_after(2):
            while not await is_refused(at):
                await anyio.lowlevel.checkpoint()
        slow.go.set()

        answer = await read_all(connection)

    assert answer.endswith(b"done")
    assert b"connection: close" in answer


async def test_stopping_closes_idle_connections() -> None:
    async with served(fast(), grace_s=5) as at, await at.connect() as connection:
        await connection.send(GET)
        await connection.receive()
        at.stop.set()

        assert await read_all(connection) == b""
        with anyio.fail_after(2):
            await at.stopped.wait()


async def test_requests_that_exceed_the_grace_period_are_cancelled() -> None:
    slow = Slow()
    async with served(slow.app, grace_s=0.05) as at, await at.connect() as connection:
        await connection.send(GET)
        await slow.asked.wait()
        at.stop.set()
        with anyio.fail_after(2):
            await at.stopped.wait()

        assert slow.cancelled
        assert (await read_all(connection)).startswith(b"HTTP/1.1 500")


async def test_cancelling_the_task_cancels_requests_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And logs no traceback for each of them."""
    slow = Slow()
    sock = bind("127.0.0.1", 0, name="OPS")
    at = Served(bound_port(sock), anyio.Event(), anyio.Event())
    monitor = ConnectionMonitor(Metrics("1", max_instances=1), "ops")
    serving = partial(
        server.serve, slow.app, sock, monitor, stop=at.stop, grace_s=9, limits=PortLimits()
    )
    async with anyio.create_task_group() as tasks:
        await tasks.start(serving)
        async with await at.connect() as connection:
            await connection.send(GET)
            await slow.asked.wait()
            tasks.cancel_scope.cancel()

    assert slow.cancelled
    assert caplog.records == []
    assert sock.fileno() == -1
    assert await is_refused(at)


@pytest.mark.parametrize("name", ["HTTP", "OPS"])
def test_a_port_in_use_is_named_with_its_setting(name: Literal["HTTP", "OPS"]) -> None:
    with (
        bind("127.0.0.1", 0, name=name) as taken,
        pytest.raises(ConfigurationError, match=f"CHATWOOT_CACHE_{name}_PORT: port .* is in use"),
    ):
        bind("127.0.0.1", bound_port(taken), name=name)


@pytest.mark.parametrize("host", ["192.0.2.1", "x" * 64 + ".example"])
def test_an_address_of_another_machine_is_named_with_its_setting(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"CHATWOOT_CACHE_OPS_HOST: .* no address of this"):
        bind(host, 0, name="OPS")


def test_a_port_that_needs_a_privilege_says_so() -> None:
    error = server._not_bound("HTTP", "0.0.0.0", 80, OSError(errno.EACCES, "denied"))

    assert str(error).startswith("CHATWOOT_CACHE_HTTP_PORT: port 80 needs a privilege")


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_an_ipv6_address_is_bound() -> None:
    with bind("::1", 0, name="HTTP") as sock, socket.create_connection(("::1", bound_port(sock))):
        assert sock.family == socket.AF_INET6
