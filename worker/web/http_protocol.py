"""HTTP on one connection: uvicorn's protocol, with limits on what a client can make it hold."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from worker.web.connection_limit import MAX_PUBLIC, Connections, set_prover

HEAD_BYTES: Final = 64 * 1024
"""A request's line and headers may take so much, and so may its trailers."""

MAX_FIELDS: Final = 256
"""Headers and trailers of one request: as objects, short ones take thirty times their bytes."""

LINGER_S: Final = 0.5
"""How long what follows a head that is too large is read and dropped.

Closing at once would reset the connection before the client has read the answer.
"""

MAX_AHEAD: Final = 32
"""Requests that a client may have sent ahead, of those that are parsed."""

_STEP_BYTES: Final = 512
"""How much is parsed at a time; after each step with a whole request in it, parsing waits."""

_CHUNKED_STEP_BYTES: Final = 4 * 1024
_BODY_STEP_BYTES: Final = 32 * 1024
"""The same within a body, of unknown and of known length."""

_PROGRESS_BYTES: Final = 16 * 1024
"""Whenever so much of a body has come, its connection counts as one that waits only from now."""

_TURN_BYTES: Final = 64 * 1024
"""A connection that had so much to read waits for its turn before more is read."""

_TURNS_AT_ONCE: Final = 8
"""How many connections have their turn in one round of the event loop."""

_TOO_LARGE: Final = b"the head of the request is larger than 64 KB or has more than 256 headers"
_TOO_LARGE_ANSWER: Final = b"".join(
    (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
        b"content-type: text/plain; charset=utf-8\r\n",
        b"content-length: %d\r\n" % len(_TOO_LARGE),
        b"connection: close\r\n\r\n",
        _TOO_LARGE,
    )
)

Reason = Literal["full", "slow_head", "large_head", "slow_body", "large_trailers", "too_far_ahead"]
"""Why the server closed a connection.

`full`: it had to make room for another; `too_far_ahead`: more than `MAX_AHEAD` requests.
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the clients of one port may take: connections, and seconds for each head and body."""

    connections: int = MAX_PUBLIC
    head_s: float = 10.0
    body_s: float = 10.0


class Turns:
    """Reads connections that send much one after the other, a few in each round of the loop.

    So what others send is not kept waiting, nor does much lie in memory unparsed.
    """

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()

    def join(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once, in its turn."""
        if not self._queue:
            asyncio.get_running_loop().call_soon(self._next)
        self._queue.append(go_on)

    def _next(self) -> None:
        for _ in range(min(_TURNS_AT_ONCE, len(self._queue))):
            self._queue.popleft()()
        if self._queue:
            asyncio.get_running_loop().call_soon(self._next)


@dataclass(frozen=True, slots=True)
class Port:
    """What the connections of one port share.

    `on_closed` is told why the server closed a connection, `on_count` how many there are.
    """

    limits: Limits
    connections: Connections["BoundedProtocol"]
    on_closed: Callable[[Reason], None]
    on_count: Callable[[int], None]
    turns: Turns = field(default_factory=Turns)


class BoundedProtocol(HttpToolsProtocol):
    """One connection; closes it where a head, a body or trailers take too much or too long.

    What was read is parsed step by step, and not while the flow is paused: so neither a body that
    the application does not read nor requests sent ahead pile up. Trailers are dropped.
    """

    flow: "_Flow"

    def __init__(self, *args: Any, port: Port, **named: Any) -> None:
        super().__init__(*args, **named)
        self._port = port
        self._timer: asyncio.TimerHandle | None = None
        self._unparsed = b""
        self._loose_bytes = 0  # of a head or of trailers, so far
        self._fields = 0
        self._in_body = False  # between the end of a head and that of its message
        self._is_over = False  # what else comes is dropped
        self._awaits_turn = False
        self._sends_much = False
        self._body_left = 0  # as far as it is known
        self._reason: Reason | None = None
        self._progress_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # theirs
        """Take a place among the connections and wait for the first request."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self._continue)
        self._await_head()
        closed = self._port.connections.add(self)
        if closed is not None:
            closed.evict()
        self._port.on_count(len(self._port.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back, and everything that was held."""
        self._stop_timer()
        self._port.connections.remove(self)
        self._port.on_count(len(self._port.connections))
        super().connection_lost(exc)
        self.flow.detach()
        self._unparsed = b""
        self.headers = []
        for cycle, _ in self.pipeline:  # would keep this connection until the next collection
            cycle.on_response = _nothing
        self.pipeline.clear()

    def evict(self) -> None:
        """Close the connection at once, to make room for another."""
        self._port.on_closed("full")
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what came, or keep it while the flow is paused."""
        self._sends_much = len(data) >= _TURN_BYTES
        self._unparsed += data
        if not self.flow.read_paused:
            self._parse()
            self._read_on()

    def on_message_begin(self) -> None:
        """Wait for the rest of a request's head."""
        if len(self.pipeline) >= MAX_AHEAD:
            self._reason = "too_far_ahead"
            raise _Refused
        super().on_message_begin()
        set_prover(self.scope, self._prove)  # type: ignore[arg-type]  # the same, but typed
        self._fields = 0
        self._await_head()
        if not self._is_answering():
            self._port.connections.wait(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; a trailer is dropped, so that nobody takes it for a header."""
        self._fields += 1
        if self._fields > MAX_FIELDS:
            self._reason = self._too_large()
            raise _Refused
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request to the application and wait for its body."""
        self._loose_bytes = 0
        self._in_body = True
        self._body_left = _length(self.headers)
        self._await_body()
        super().on_headers_complete()
        if self._is_unwanted():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Hand over a part of a body."""
        self._loose_bytes = 0
        self._body_left -= len(body)
        self._progress_bytes += len(body)
        if self._progress_bytes >= _PROGRESS_BYTES and not self.pipeline:
            self._progress_bytes = 0
            self._port.connections.wait(self)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop waiting: the request has come."""
        self._loose_bytes = 0
        self._in_body = False
        self._body_left = 0
        self._stop_timer()
        if self._is_answering():
            self._port.connections.answer(self)
            self._is_over = not self.cycle.keep_alive
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request; one that was sent ahead has to wait for its turn."""
        if self.pipeline:
            self._port.turns.join(self._start_next)
            return
        super().on_response_complete()
        if self._in_body or not self._is_answering():
            self._port.connections.wait(self)

    def pause_writing(self) -> None:
        """Count a client that does not read its answer as one that waits."""
        super().pause_writing()
        self._port.connections.wait(self)

    def resume_writing(self) -> None:
        """Take the client back that reads its answer."""
        super().resume_writing()
        if self._is_answering() and not self._in_body:
            self._port.connections.answer(self)

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, or what we do not parse."""
        if self._reason is not None:
            self._refuse(self._reason)
        elif self.pipeline or (self._is_answering() and not self._in_body):
            self.transport.close()  # it would be taken for the answer to the request before
        else:
            super().send_400_response(msg)

    def _prove(self) -> None:
        self._port.connections.prove(self)

    def _start_next(self) -> None:
        if self._is_unwanted():
            self.transport.close()
        elif self.pipeline and not self.transport.is_closing():
            self._start_asgi_task(*self.pipeline.pop())

    def _is_unwanted(self) -> bool:
        """Tell whether others need the place that this connection would keep."""
        connections = self._port.connections
        return connections.is_crowded() and not connections.is_proven(self)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]  # None before the first

    def _parse(self) -> None:
        data, self._unparsed = memoryview(self._unparsed), b""
        if not data:
            return
        while data and not self._must_hold():
            size = self._step_bytes()
            if not size:
                self._refuse(self._too_large())
                return
            step, data = bytes(data[:size]), data[size:]
            self._loose_bytes += len(step)
            super().data_received(step)
        if self.flow.read_paused and not self._is_over:
            self._unparsed = bytes(data)
        self._await_head_after_noise()

    def _step_bytes(self) -> int:
        """How much to parse next; nothing where a head or trailers took all they may."""
        left = HEAD_BYTES - self._loose_bytes
        if not self._in_body:
            return min(left, _STEP_BYTES)
        return min(left, max(_CHUNKED_STEP_BYTES, min(_BODY_STEP_BYTES, self._body_left)))

    def _must_hold(self) -> bool:
        return self._is_over or self.flow.read_paused or self.transport.is_closing()

    def _continue(self) -> None:
        """Parse what was kept, then read on; called when the flow is not paused any more."""
        self.loop.call_soon(self._parse_kept)

    def _parse_kept(self) -> None:
        if self.transport.is_closing():
            return
        if self.pipeline:  # the answer to each of these will call again
            self.flow.pause_reading()
            return
        if self._in_body and self._timer is None:
            self._await_body()
        self._parse()
        self._read_on()

    def _read_on(self) -> None:
        """Read more unless the flow is paused: at once, or when it is this connection's turn."""
        if self.flow.read_paused or self._awaits_turn:
            return
        if self._sends_much:
            self._awaits_turn = True
            self.transport.pause_reading()
            self._port.turns.join(self._take_turn)
        else:
            self.transport.resume_reading()

    def _take_turn(self) -> None:
        self._awaits_turn = False
        if not self.flow.read_paused:
            self.transport.resume_reading()

    def _too_large(self) -> Reason:
        return "large_trailers" if self._in_body else "large_head"

    def _refuse(self, reason: Reason) -> None:
        self._port.on_closed(reason)
        if reason != "large_head" or self._is_answering():
            self.transport.close()
            return

        self._is_over = True
        self.transport.write(_TOO_LARGE_ANSWER)
        self.transport.write_eof()
        self._set_timer(LINGER_S, self.transport.close)

    def _await_head(self) -> None:
        self._set_timer(self._port.limits.head_s, self._on_slow_head)

    def _await_body(self) -> None:
        self._set_timer(self._port.limits.body_s, self._on_slow_body)

    def _await_head_after_noise(self) -> None:
        """Bound the wait where bytes ended uvicorn's, and no request began: empty lines do that."""
        if not (self._timer or self._is_answering() or self.transport.is_closing()):
            self._await_head()

    def _on_slow_head(self) -> None:
        # The head that does not come may be pipelined behind a request still in hand.
        if self._is_answering():
            self._await_head()
        else:
            self._port.on_closed("slow_head")
            self.transport.close()

    def _on_slow_body(self) -> None:
        self._timer = None
        if not self.flow.read_paused:  # else it is we who do not read
            self._port.on_closed("slow_body")
            self.transport.close()

    def _set_timer(self, seconds: float, callback: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, callback)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _nothing() -> None:
    """Stand in for a callback that is not wanted any more."""


def _length(headers: list[tuple[bytes, bytes]]) -> int:
    """Return the length of a body; the parser has checked it."""
    for name, value in headers:
        if name == b"content-length":
            return int(value)
    return 0


class _Refused(Exception):
    """Ends the parsing of a request."""


class _Flow(FlowControl):
    """uvicorn's flow control; reading goes on once what was read before has been parsed."""

    def __init__(self, transport: asyncio.Transport, on_resumed: Callable[[], None]) -> None:
        super().__init__(transport)
        self._on_resumed: Callable[[], None] | None = on_resumed

    def detach(self) -> None:
        """Let go of the connection, which is lost."""
        self._on_resumed = None

    def resume_reading(self) -> None:
        """Ask for more, unless it was asked for already."""
        if self.read_paused:
            self.read_paused = False
            if self._on_resumed is not None:
                self._on_resumed()
