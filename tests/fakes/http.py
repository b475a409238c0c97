"""An HTTP server on loopback with a function as its handler, and faults to inject."""

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

HTML = b"<!DOCTYPE html><html><body>We're sorry, but something went wrong.</body></html>"


@dataclass(frozen=True)
class Request:
    """A request that was received."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Reply:
    """A reply; it is sent once `delay` is set."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: threading.Event | None = None

    @property
    def content(self) -> bytes:
        """The body as it is sent."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Answering = Callable[[Request], Reply]
Fault = Callable[[Request], Reply | None]


class FakeServer:
    """Replies by `answer`, unless `fault` returns a reply."""

    def __init__(self, answer: Answering) -> None:
        self.answer = answer
        self.fault: Fault = lambda _request: None
        self.requests: list[Request] = []
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        """The server's URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def paths(self, method: str = "GET") -> list[str]:
        """The paths of all requests with a method."""
        return [request.path for request in self.requests if request.method == method]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Print nothing about clients that were killed."""


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def _answer(self) -> None:
            address = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("content-length") or 0))
            request = Request(
                self.command,
                address.path,
                dict(parse_qsl(address.query)),
                {name.lower(): value for name, value in self.headers.items()},
                json.loads(content) if content else None,
            )
            server.requests.append(request)
            self._send(server.fault(request) or server.answer(request))

        def _send(self, reply: Reply) -> None:
            if reply.delay is not None:
                reply.delay.wait(30)
            content = reply.content
            with contextlib.suppress(ConnectionError):
                self.send_response(reply.status)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
                self.wfile.flush()

        do_GET = do_POST = do_PATCH = _answer  # noqa: N815  (the library's names)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
