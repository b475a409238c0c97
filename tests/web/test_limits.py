"""What a client can make the server hold: heads, trailers, bodies, requests, connections."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import capture_logs

from tests.serving import Served, read_all, served
from tests.waiting import wait_until
from worker.ops.metrics import CONNECTIONS_CLOSED, Metrics
from worker.web.connection_limit import mark_authenticated
from worker.web.connection_monitor import ConnectionMonitor
from worker.web.http_protocol import BoundedProtocol

LIMIT = 64 * 1024
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


class Counted(ConnectionMonitor):
    """A monitor with metrics of its own."""

    def __init__(self) -> None:
        self.metrics = Metrics("1", max_instances=1)
        super().__init__(self.metrics, "http")

    def by_reason(self) -> dict[str, float]:
        """Return how many connections were closed, by reason."""
        counter = self.metrics.http_connections_closed
        values = {reason: counter.labels("http", reason)._value.get() for reason in REASONS}
        return {reason: value for reason, value in values.items() if value}


REASONS = CONNECTIONS_CLOSED


async def answer(send: Send, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def unread(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer without reading the body."""
    await answer(send, b"done")


async def digest(_scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a digest of the body."""
    found = sha256()
    more = True
    while more:
        message = await receive()
        found.update(message.get("body", b""))
        more = message.get("more_body", False)
    await answer(send, found.hexdigest().encode())


async def names(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the names of the headers, once the body has arrived."""
    while (await receive()).get("more_body"):
        pass
    await answer(send, b",".join(name for name, _ in scope["headers"]))


def request(size: int) -> bytes:
    """Return a request whose head has this size."""
    head = b"GET / HTTP/1.1\r\nHost: x\r\nx: \r\n\r\n"
    return head[:-4] + b"y" * (size - len(head)) + head[-4:]


# Heads


async def test_a_head_of_the_limit_is_accepted_and_one_byte_more_is_not() -> None:
    monitor = Counted()
    async with served(unread, monitor=monitor) as at:
        async with await at.connect() as connection:
            await connection.send(request(LIMIT))
            taken = await connection.receive()
        refused = await at.ask(request(LIMIT + 1))

    assert taken.startswith(b"HTTP/1.1 200")
    assert refused.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert monitor.by_reason() == {"large_head": 1}


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"y" * LIMIT,
        b"GET / HTTP/1.1\r\n" + b"y" * LIMIT,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 300,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 257 + b"\r\n",
    ],
    ids=["url", "name", "headers", "complete"],
)
async def test_a_head_that_is_too_large_is_refused_before_its_end(sent: bytes) -> None:
    async with served(unread) as at:
        assert (await at.ask(sent)).startswith(b"HTTP/1.1 431")


async def test_a_client_that_sends_far_too_large_a_head_can_still_read_the_answer() -> None:
    async with served(unread) as at:
        refused = await at.ask(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 700_000)

    assert refused.endswith(
        b"the head of the request is larger than 64 KB or has more than 256 headers"
    )


async def test_a_head_that_is_too_large_does_not_disturb_the_answer_before() -> None:
    async with served(unread) as at:
        answers = await at.ask(GET + b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 300)

    assert answers.count(b"HTTP/1.1") <= 2
    assert b"431" not in answers.partition(b"done")[0]


async def test_invalid_http_is_not_answered_within_another_answer() -> None:
    async with served(digest) as at:
        assert b"400" not in (await at.ask(GET + b"\x16\x03\r\n\r\n")).partition(b"\r\n\r\n")[0]


# Trailers


async def test_a_trailer_is_no_header() -> None:
    """A proxy that checks headers only would let a key in a trailer pass."""
    async with served(names) as at, await at.connect() as connection:
        await connection.send(CHUNKED + b"1\r\nx\r\n0\r\napikey: y\r\n\r\n")
        received = await connection.receive()

    assert received.endswith(b"host,transfer-encoding")


@pytest.mark.parametrize("app", [unread, digest])
@pytest.mark.parametrize("line", [b"a: b\r\n", b"y" * 1000])
async def test_trailers_have_a_limit(app: ASGIApp, line: bytes) -> None:
    monitor = Counted()
    async with served(app, monitor=monitor) as at:
        await at.ask(CHUNKED + b"0\r\n" + line * (2 * LIMIT // len(line)))

    assert monitor.by_reason() == {"large_trailers": 1}


async def test_chunks_do_not_count_as_trailers() -> None:
    body = b"1\r\nx\r\n" * (LIMIT // 2)
    async with served(digest) as at, await at.connect() as connection:
        await connection.send(CHUNKED + body + b"0\r\na: b\r\n\r\n")

        assert await said(connection) == sha256(b"x" * (LIMIT // 2)).hexdigest().encode()


async def said(connection: SocketStream) -> bytes:
    """Receive the body of an answer."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += await connection.receive()
    return head.partition(b"\r\n\r\n")[2]


# Bodies


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_bodies_arrive_whole_beside_each_other(*, chunked: bool) -> None:
    body = bytes(range(256)) * 8192
    sent = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    if chunked:
        sent = CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    found: list[bytes] = []

    async def ask() -> None:
        async with await at.connect() as connection:
            for _ in range(2):
                await connection.send(sent)
                found.append(await said(connection))

    async with served(digest) as at, anyio.create_task_group() as tasks:
        for _ in range(12):
            tasks.start_soon(ask)

    assert found == [sha256(body).hexdigest().encode()] * 24


async def test_a_body_that_does_not_arrive_closes_the_connection() -> None:
    """Also where the request has been answered."""
    monitor = Counted()
    async with served(unread, body_s=0.05, monitor=monitor) as at:
        answered = await at.ask(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")

    assert answered.endswith(b"done")
    assert monitor.by_reason() == {"slow_body": 1}


async def test_a_body_that_the_application_does_not_read_has_no_time_limit() -> None:
    waited = anyio.Event()

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await waited.wait()
        await digest(scope, receive, send)

    body = b"x" * 1_000_000
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with (
        served(late, body_s=0.3) as at,
        await at.connect() as connection,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(connection.send, head + body)
        await at.ask(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
        waited.set()

        assert await said(connection) == sha256(body).hexdigest().encode()


async def test_empty_lines_do_not_keep_a_connection() -> None:
    async with served(unread, head_s=0.05) as at, await at.connect() as connection:
        await connection.send(GET)
        await connection.receive()
        await connection.send(b"\r\n")

        assert await read_all(connection) == b""


# Pipelined requests


async def test_pipelined_requests_are_all_answered() -> None:
    async with (
        served(unread) as at,
        await at.connect() as connection,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(connection.send, GET * 3000)
        received = bytearray()
        with anyio.fail_after(5):
            while received.count(b"done") < 3000:
                received += await connection.receive()


async def test_pipelined_requests_do_not_accumulate() -> None:
    go = anyio.Event()
    started = []

    async def slow(scope: Scope, _receive: Receive, send: Send) -> None:
        started.append(scope)
        await go.wait()
        await answer(send, b"done")

    monitor = Counted()
    body = b"1\r\nx\r\n" * 100 + b"0\r\n\r\n"
    async with served(slow, monitor=monitor) as at, await at.connect() as connection:
        await connection.send(CHUNKED + body + b"GET / HTTP/1.1\r\n\r\n" * 100)
        await wait_until(monitor.by_reason, "the connection is closed")
        go.set()

    assert monitor.by_reason() == {"too_far_ahead": 1}
    assert len(started) == 1


async def test_pipelined_requests_take_turns() -> None:
    """So a single request waits for a few of them, and not for all."""
    answers = 0
    meanwhile = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        nonlocal answers
        answers += 1
        if scope["path"] == "/alone":
            before = answers
            for _ in range(20):
                await asyncio.sleep(0)
            meanwhile.append(answers - before)
        await answer(send, b"done")

    async with served(app) as at, AsyncExitStack() as stack:
        for _ in range(60):
            connection = await stack.enter_async_context(await at.connect())
            await connection.send(GET * 400)
        await at.ask(b"GET /alone HTTP/1.1\r\nConnection: close\r\n\r\n")

    assert 0 < meanwhile[0] <= 200


# Connections


@pytest.fixture
async def opened() -> Any:
    async with AsyncExitStack() as stack:

        async def connect(at: Served, count: int, sent: bytes = b"") -> list[SocketStream]:
            found = [await stack.enter_async_context(await at.connect()) for _ in range(count)]
            for connection in found:
                if sent:
                    await connection.send(sent)
            return found

        yield connect


Opener = Callable[..., Awaitable[list[SocketStream]]]


@pytest.mark.parametrize("sent", [b"", b"GET / HT", CHUNKED, CHUNKED + b"1\r\nx\r\n"])
async def test_connections_without_a_request_are_closed_for_others(
    opened: Opener, sent: bytes
) -> None:
    monitor = Counted()
    async with served(digest, connections=16, monitor=monitor) as at:
        held = await opened(at, 16, sent)
        for _ in range(5):
            async with await at.connect() as connection:
                await connection.send(GET)
                assert (await connection.receive()).startswith(b"HTTP/1.1 200")

        assert await read_all(held[0]) == b""
        assert monitor.by_reason()["full"] >= 1
        assert monitor.metrics.http_connections.labels("http")._value.get() <= 16


async def test_a_connection_that_is_answering_is_not_closed(opened: Opener) -> None:
    asked, go = anyio.Event(), anyio.Event()

    async def slow(_scope: Scope, _receive: Receive, send: Send) -> None:
        asked.set()
        await go.wait()
        await answer(send, b"done")

    async with served(slow, connections=4) as at:
        (honest,) = await opened(at, 1, GET)
        await asked.wait()
        await opened(at, 20)
        go.set()

        assert (await said(honest)) == b"done"


async def test_an_authenticated_connection_is_not_closed_for_unauthenticated_ones(
    opened: Opener,
) -> None:
    async def authenticating(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["path"] == "/key":
            mark_authenticated(scope)
        await answer(send, b"done")

    async with served(authenticating, connections=4) as at:
        (honest,) = await opened(at, 1, b"GET /key HTTP/1.1\r\nHost: x\r\n\r\n")
        await honest.receive()
        (unauthenticated,) = await opened(at, 1, GET)
        await unauthenticated.receive()
        await opened(at, 20)
        await honest.send(GET)

        assert b"connection: close" not in await honest.receive()
        assert await read_all(unauthenticated) == b""


async def test_a_crowded_port_closes_unauthenticated_connections_after_the_answer(
    opened: Opener,
) -> None:
    async with served(unread, connections=4) as at:
        await opened(at, 3)
        assert b"connection: close" in await at.ask(GET + GET)


async def test_a_burst_of_connections_is_accepted(opened: Opener) -> None:
    async with served(unread) as at:
        for connection in await opened(at, 100, GET):
            assert (await connection.receive()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nx: y",
        GET,
        GET * 3000,
        CHUNKED + b"1\r\nx\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 300,
        b"no HTTP\r\n\r\n",
    ],
    ids=["nothing", "head", "request", "ahead", "body", "too large", "no HTTP"],
)
async def test_a_connection_that_is_closed_leaves_no_cycles(opened: Opener, sent: bytes) -> None:
    """The worker collects garbage seldom; what strangers left would pile up until then."""
    async with served(digest, connections=1) as at:
        gc.collect()
        gc.disable()
        try:
            await opened(at, 1, sent)
            await opened(at, 1)
            await wait_until(lambda: count(BoundedProtocol) <= 1, "the first one is gone")
        finally:
            gc.enable()


def count(kind: type) -> int:
    return sum(type(thing) is kind for thing in gc.get_objects())


def test_closed_connections_are_logged_at_a_limited_rate() -> None:
    """A slow head is counted only."""
    monitor = Counted()
    with capture_logs() as logs:
        for _ in range(3):
            monitor.closed("full")
            monitor.closed("slow_head")

    assert monitor.by_reason() == {"full": 3, "slow_head": 3}
    assert [(line["event"], line["port"], line["reason"]) for line in logs] == [
        ("connection.closed", "http", "full")
    ]
