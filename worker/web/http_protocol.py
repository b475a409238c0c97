"""HTTP on one connection: uvicorn's protocol, with limits on what a client can make it hold."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from worker.web.connection_limit import MAX_PUBLIC, Connections, on_authenticated
from worker.web.connection_monitor import CloseReason, ConnectionMonitor

HEAD_BYTES: Final = 64 * 1024
"""Limit of a request's line and headers, and of its trailers."""

MAX_HEADERS: Final = 256
"""Limit of headers and trailers: as objects, short ones take thirty times their bytes."""

LINGER_S: Final = 0.5
"""How long input after a head that is too large is read and dropped.

Closing at once would reset the connection before the client has read the answer.
"""

MAX_PIPELINED: Final = 32
"""Parsed requests that may wait for the answers before theirs."""

_STEP_BYTES: Final = 512
"""How much is parsed at a time; after a step that completes a request, parsing is paused."""

_CHUNKED_STEP_BYTES: Final = 4 * 1024
_BODY_STEP_BYTES: Final = 32 * 1024
"""The same within a body, of unknown and of known length."""

_PROGRESS_BYTES: Final = 16 * 1024
"""For every so many bytes of a body, its connection counts as one that has just begun to wait."""

_LARGE_READ_BYTES: Final = 64 * 1024
"""After a read of this size, a connection waits for its turn to read again."""

_TURNS_PER_ROUND: Final = 8
"""How many connections have their turn in one round of the event loop."""

_TOO_LARGE: Final = b"the head of the request is larger than 64 KB or has more than 256 headers"
_TOO_LARGE_ANSWER: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\n"
    b"connection: close\r\n\r\n%b" % (len(_TOO_LARGE), _TOO_LARGE)
)


@dataclass(frozen=True, slots=True)
class PortLimits:
    """The connections of one port, and the seconds that a head and a body may take to arrive."""

    connections: int = MAX_PUBLIC
    head_s: float = 10.0
    body_s: float = 10.0


class RoundRobin:
    """Calls back connections that send much, a few in each round of the event loop.

    So they do not delay others, and little of what they send waits in memory.
    """

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()

    def schedule(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, in its turn."""
        if not self._queue:
            asyncio.get_running_loop().call_soon(self._run)
        self._queue.append(callback)

    def _run(self) -> None:
        for _ in range(min(_TURNS_PER_ROUND, len(self._queue))):
            self._queue.popleft()()
        if self._queue:
            asyncio.get_running_loop().call_soon(self._run)


@dataclass(frozen=True, slots=True)
class Port:
    """What the connections of one port share."""

    limits: PortLimits
    connections: Connections["BoundedProtocol"]
    monitor: ConnectionMonitor
    turns: RoundRobin = field(default_factory=RoundRobin)


class BoundedProtocol(HttpToolsProtocol):
    """One connection; closed where a head, a body or trailers are too large or too slow.

    Input is parsed in steps, and not while the flow is paused: so neither a body that the
    application does not read nor pipelined requests accumulate. Trailers are dropped.
    """

    flow: "_Flow"

    def __init__(self, *args: Any, port: Port, **options: Any) -> None:
        super().__init__(*args, **options)
        self._port = port
        self._connections = port.connections
        self._timer: asyncio.TimerHandle | None = None
        self._unparsed = b""
        self._head_bytes = 0  # of the current head or trailers
        self._header_count = 0
        self._in_body = False  # from the end of the head to the end of the message
        self._body_left = 0  # where the length is known
        self._progress_bytes = 0
        self._drops_input = False
        self._is_large_sender = False
        self._awaits_turn = False
        self._refusal: CloseReason | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # theirs
        """Register the connection and wait for the first request."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self._on_resumed)
        self._await_head()
        closed = self._connections.add(self)
        if closed is not None:
            closed.evict()
        self._port.monitor.set_open(len(self._connections))

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything that the connection holds."""
        self._stop_timer()
        self._connections.remove(self)
        self._port.monitor.set_open(len(self._connections))
        super().connection_lost(exc)
        self.flow.detach()
        self._unparsed = b""
        self.headers = []
        for cycle, _ in self.pipeline:  # would keep this connection until the next collection
            cycle.on_response = _nothing
        self.pipeline.clear()

    def evict(self) -> None:
        """Close the connection at once, to make room for another."""
        self._port.monitor.closed("full")
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse the input, or keep it while the flow is paused."""
        self._is_large_sender = len(data) >= _LARGE_READ_BYTES
        self._unparsed += data
        if not self.flow.read_paused:
            self._parse()
            self._resume_reading()

    def on_message_begin(self) -> None:
        """Wait for the rest of a request's head."""
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refusal = "too_far_ahead"
            raise _Refused
        super().on_message_begin()
        on_authenticated(self.scope, self._on_authenticated)  # type: ignore[arg-type]  # the same, but typed
        self._header_count = 0
        self._await_head()
        if not self._is_answering():
            self._connections.wait(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers are dropped, so that none is taken for a header."""
        self._header_count += 1
        if self._header_count > MAX_HEADERS:
            self._refusal = self._too_large()
            raise _Refused
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the application and wait for the body."""
        self._head_bytes = 0
        self._in_body = True
        lengths = [value for name, value in self.headers if name == b"content-length"]
        self._body_left = int(lengths[0]) if lengths else 0  # the parser has checked it
        self._await_body()
        super().on_headers_complete()
        if self._is_unwanted():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Pass a part of a body to the application."""
        self._head_bytes = 0
        self._body_left -= len(body)
        self._progress_bytes += len(body)
        if self._progress_bytes >= _PROGRESS_BYTES and not self.pipeline:
            self._progress_bytes = 0
            self._connections.wait(self)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop waiting: the request is complete."""
        self._head_bytes = 0
        self._in_body = False
        self._body_left = 0
        self._stop_timer()
        if self._is_answering():
            self._connections.answer(self)
            self._drops_input = not self.cycle.keep_alive
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request; a pipelined one is started in its turn."""
        if self.pipeline:
            self._port.turns.schedule(self._start_next)
            return
        super().on_response_complete()
        if self._in_body or not self._is_answering():
            self._connections.wait(self)

    def pause_writing(self) -> None:
        """Count a client that does not read its answer as waiting."""
        super().pause_writing()
        self._connections.wait(self)

    def resume_writing(self) -> None:
        """Count a client that reads its answer as answering again."""
        super().resume_writing()
        if self._is_answering() and not self._in_body:
            self._connections.answer(self)

    def send_400_response(self, msg: str) -> None:
        """Refuse input that cannot be parsed, or that exceeds a limit."""
        if self._refusal is not None:
            self._refuse(self._refusal)
        elif self.pipeline or (self._is_answering() and not self._in_body):
            self.transport.close()  # the client would take it for the answer it waits for
        else:
            super().send_400_response(msg)

    def _on_authenticated(self) -> None:
        self._connections.authenticate(self)

    def _start_next(self) -> None:
        if self._is_unwanted():
            self.transport.close()
        elif self.pipeline and not self.transport.is_closing():
            self._start_asgi_task(*self.pipeline.pop())

    def _is_unwanted(self) -> bool:
        return self._connections.is_crowded() and not self._connections.is_authenticated(self)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]  # None before the first

    def _parse(self) -> None:
        data, self._unparsed = memoryview(self._unparsed), b""
        if not data:
            return
        while data and not (
            self._drops_input or self.flow.read_paused or self.transport.is_closing()
        ):
            size = self._step_bytes()
            if not size:
                self._refuse(self._too_large())
                return
            step, data = bytes(data[:size]), data[size:]
            self._head_bytes += len(step)
            super().data_received(step)
        if self.flow.read_paused and not self._drops_input:
            self._unparsed = bytes(data)
        if not (self._timer or self._is_answering() or self.transport.is_closing()):
            # uvicorn has stopped its timer for input that begins no request, like empty lines.
            self._await_head()

    def _step_bytes(self) -> int:
        """Return how much to parse next; 0 where a head or trailers have reached the limit."""
        left = HEAD_BYTES - self._head_bytes
        if not self._in_body:
            return min(left, _STEP_BYTES)
        return min(left, max(_CHUNKED_STEP_BYTES, min(_BODY_STEP_BYTES, self._body_left)))

    def _on_resumed(self) -> None:
        self.loop.call_soon(self._parse_kept)

    def _parse_kept(self) -> None:
        """Parse the input that was kept, then read on."""
        if self.transport.is_closing():
            return
        if self.pipeline:  # the end of each of their answers calls this again
            self.flow.pause_reading()
            return
        if self._in_body and self._timer is None:
            self._await_body()
        self._parse()
        self._resume_reading()

    def _resume_reading(self) -> None:
        """Read at once, or in its turn, unless the flow is paused."""
        if self.flow.read_paused or self._awaits_turn:
            return
        if self._is_large_sender:
            self._awaits_turn = True
            self.transport.pause_reading()
            self._port.turns.schedule(self._take_turn)
        else:
            self.transport.resume_reading()

    def _take_turn(self) -> None:
        self._awaits_turn = False
        if not self.flow.read_paused:
            self.transport.resume_reading()

    def _too_large(self) -> CloseReason:
        return "large_trailers" if self._in_body else "large_head"

    def _refuse(self, reason: CloseReason) -> None:
        self._port.monitor.closed(reason)
        if reason != "large_head" or self._is_answering():
            self.transport.close()
            return

        self._drops_input = True
        self.transport.write(_TOO_LARGE_ANSWER)
        self.transport.write_eof()
        self._set_timer(LINGER_S, self.transport.close)

    def _await_head(self) -> None:
        self._set_timer(self._port.limits.head_s, self._on_slow_head)

    def _await_body(self) -> None:
        self._set_timer(self._port.limits.body_s, self._on_slow_body)

    def _on_slow_head(self) -> None:
        # It may be the head of a pipelined request, behind one that is being answered.
        if self._is_answering():
            self._await_head()
        else:
            self._port.monitor.closed("slow_head")
            self.transport.close()

    def _on_slow_body(self) -> None:
        self._timer = None
        if not self.flow.read_paused:  # else the application is slow, not the client
            self._port.monitor.closed("slow_body")
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


class _Refused(Exception):
    """Makes the parser stop and call `send_400_response`."""


class _Flow(FlowControl):
    """uvicorn's flow control; what was read already is parsed before reading resumes."""

    def __init__(self, transport: asyncio.Transport, on_resumed: Callable[[], None]) -> None:
        super().__init__(transport)
        self._on_resumed: Callable[[], None] | None = on_resumed

    def detach(self) -> None:
        """Drop the reference to the connection, which is lost."""
        self._on_resumed = None

    def resume_reading(self) -> None:
        """Resume, if paused."""
        if self.read_paused:
            self.read_paused = False
            if self._on_resumed is not None:
                self._on_resumed()
