"""One JSON API over HTTP: asked at a pace, answered in time, its failures told in one line."""

import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, Final

import anyio
import httpx
import msgspec

from worker.errors import UpstreamError, UpstreamFailure

Parameters = Mapping[str, str | int]

_MAX_BYTES: Final = 64 * 1024 * 1024
_MAX_PAUSE_S: Final = 120.0
_FIRST_PAUSE_S: Final = 0.5

_KINDS: Final[Mapping[int, UpstreamFailure]] = {
    401: "unauthorized",
    403: "forbidden",
    404: "missing",
    422: "unprocessable",
    429: "limited",
}
_MAY_PASS: Final = frozenset(("limited", "failing", "slow", "unreachable"))


@dataclass(frozen=True, slots=True)
class RemoteService:
    """Whom we ask: its name, its address, the header that lets us in, and advice by failure."""

    name: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    advice: Mapping[UpstreamFailure, str] = field(default_factory=dict)

    def declined(self, kind: UpstreamFailure, what: str) -> UpstreamError:
        """Return the failure in one line, with what to change."""
        advice = self.advice.get(kind)
        return UpstreamError(
            kind, f"{self.name} at {self.url} {what}{f': {advice}' if advice else ''}"
        )


class RateLimiter:
    """Lets at most so many requests begin in a second, evenly."""

    def __init__(self, per_s: float) -> None:
        self._interval_s = 1 / per_s
        self._next = 0.0

    async def wait(self) -> None:
        """Return when the next request may begin."""
        now = time.monotonic()
        begins = max(now, self._next)
        self._next = begins + self._interval_s
        await anyio.sleep(begins - now)


class JsonClient:
    """Asks one peer; a request may take `timeout_s`, and is tried `attempts` times at most.

    Only what may pass is tried again: a limit (after the pause that the peer asks for),
    a failure of the peer's, a time-out. Raises `UpstreamError`, and nothing else.
    """

    def __init__(
        self,
        peer: RemoteService,
        *,
        timeout_s: float,
        attempts: int = 1,
        pace: RateLimiter | None = None,
    ) -> None:
        self._peer = peer
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._pace = pace
        self._client = httpx.AsyncClient(
            headers={"Accept": "application/json", **peer.headers},
            timeout=timeout_s,
            verify=certificates(),
        )

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.aclose()

    async def get(self, path: str, parameters: Parameters | None = None) -> bytes:
        """Return the JSON that stands at a path."""
        return await self._ask("GET", path, parameters=parameters)

    async def send(self, method: str, path: str, body: Any) -> bytes:
        """Send JSON to a path, and return the JSON that it answers."""
        return await self._ask(method, path, content=msgspec.json.encode(body))

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        parameters: Parameters | None = None,
        content: bytes | None = None,
    ) -> bytes:
        attempt = 0
        while True:
            attempt += 1
            if self._pace:
                await self._pace.wait()
            pause_s = _FIRST_PAUSE_S * 2**attempt
            try:
                async with self._translated():
                    response = await self._client.request(
                        method,
                        f"{self._peer.url}{path}",
                        params=dict(parameters or {}),
                        content=content,
                        headers={"Content-Type": "application/json"} if content else {},
                    )
                pause_s = _asked_pause_s(response, pause_s)
                return self._json(response)
            except UpstreamError as declined:
                if attempt >= self._attempts or declined.kind not in _MAY_PASS:
                    raise
            await anyio.sleep(pause_s)

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        """Turn failures of the way there into ours, and bound the whole answer in time."""
        try:
            # Each of httpx's own time-outs is for one step, and drops can trickle for ever.
            with anyio.fail_after(self._timeout_s):
                yield
        except (TimeoutError, httpx.TimeoutException):
            raise self._peer.declined(
                "slow", f"did not answer within {self._timeout_s:g} s"
            ) from None
        except httpx.ConnectError:
            raise self._peer.declined("unreachable", "cannot be reached from here") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._peer.declined(
                "unreachable", f"broke off the answer ({type(error).__name__})"
            ) from None

    def _json(self, response: httpx.Response) -> bytes:
        if response.is_redirect:
            raise self._peer.declined("redirected", f"redirects to {_place(response)}")
        if response.is_error:
            raise self._declined(response)
        content = response.content
        if content[:1] not in (b"{", b"["):
            kind = "an HTML page" if b"<" in content[:100] else "something"
            raise self._peer.declined("strange", f"answers with {kind} that is not JSON")
        return content

    def _declined(self, response: httpx.Response) -> UpstreamError:
        status = response.status_code
        kind = _KINDS.get(status, "failing" if response.is_server_error else "strange")
        path = response.request.url.path
        return self._peer.declined(kind, f"answers {status} to {response.request.method} {path}")


@cache
def certificates() -> ssl.SSLContext:
    """Load every certificate authority there is, which takes a while, once for all clients."""
    return httpx.create_ssl_context()


def _place(response: httpx.Response) -> str:
    """Return where a redirect leads, without what may be secret in it."""
    target = response.next_request.url if response.next_request else httpx.URL()
    return f"{target.scheme}://{target.netloc.decode()}" if target.host else "nowhere"


def _asked_pause_s(response: httpx.Response, otherwise: float) -> float:
    """Return the pause that `Retry-After` asks for, two minutes at most."""
    stated = response.headers.get("retry-after", "").strip()
    if stated.isascii() and stated.isdigit():
        return min(float(stated), _MAX_PAUSE_S)
    try:
        until = parsedate_to_datetime(stated)
        since = parsedate_to_datetime(response.headers["date"])
    except (ValueError, TypeError, KeyError):
        return otherwise
    return min(max((until - since).total_seconds(), 0.0), _MAX_PAUSE_S)
