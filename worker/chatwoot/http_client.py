"""HTTP client of one JSON API, with a rate limit, retries, and bounds on time and bytes."""

import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar

import anyio
import httpx
import msgspec

from worker.errors import UpstreamError, UpstreamFailure

MAX_REPLY_BYTES: Final = 64 * 1024 * 1024

_FIRST_PAUSE_S: Final = 1.0
_MAX_PAUSE_S: Final = 120.0
_KINDS: Final[Mapping[int, UpstreamFailure]] = {
    401: "unauthorized",
    403: "forbidden",
    404: "missing",
    422: "unprocessable",
    429: "limited",
}
_RETRYABLE: Final = frozenset(("limited", "failing", "slow", "unreachable"))

_T = TypeVar("_T")


class RateLimiter:
    """Spaces the starts of requests evenly, at most `per_s` in a second."""

    def __init__(self, per_s: float) -> None:
        self._interval_s = 1 / per_s
        self._next_s = 0.0

    async def wait(self) -> None:
        """Return when the next request may start."""
        now_s = time.monotonic()
        start_s = max(now_s, self._next_s)
        self._next_s = start_s + self._interval_s
        await anyio.sleep(start_s - now_s)


@dataclass(frozen=True, slots=True)
class RequestPolicy:
    """How requests are made: `timeout_s` bounds each attempt, with the whole reply."""

    timeout_s: float
    attempts: int = 1
    limiter: RateLimiter | None = None


class JsonClient:
    """Client of one service, which all requests authenticate to with `headers`.

    Rate limits, server errors, time-outs and connection errors are retried.
    Every failure is raised as `UpstreamError`, with the advice that `advice` has for its kind.
    """

    def __init__(
        self,
        service: str,
        url: str,
        headers: Mapping[str, str],
        advice: Mapping[UpstreamFailure, str],
        policy: RequestPolicy,
    ) -> None:
        self._service = service
        self._url = url
        self._advice = advice
        self._policy = policy
        self._client = httpx.AsyncClient(
            # As bytes: httpx raises for a text that is not ASCII, where the service answers 401.
            headers=[(k.encode(), text.encode(errors="replace")) for k, text in headers.items()],
            timeout=policy.timeout_s,
            verify=ssl_context(),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    def error(self, kind: UpstreamFailure, text: str) -> UpstreamError:
        """Return an error of one line: the service, what it does, and the advice for this kind."""
        advice = f": {self._advice[kind]}" if kind in self._advice else ""
        return UpstreamError(kind, f"{self._service} at {self._url} {text}{advice}")

    async def request(self, method: str, path: str, reply_type: type[_T], **options: Any) -> _T:
        """Return the JSON of the reply; `options` are `params` and `json` of httpx."""
        content = await self._send(method, path, options)
        try:
            return msgspec.json.decode(content, type=reply_type)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            kind = "an HTML page" if content.lstrip().startswith(b"<") else "unexpected content"
            # Without the cause, which may quote message texts and tokens.
            raise self.error("strange", f"answers with {kind} instead of its JSON") from None

    async def _send(self, method: str, path: str, options: Mapping[str, Any]) -> bytearray:
        pause_s = _FIRST_PAUSE_S
        retries_left = self._policy.attempts
        while True:
            retries_left -= 1
            if self._policy.limiter:
                await self._policy.limiter.wait()
            stated_s: float | None = None
            try:
                async with self._response(method, path, options) as response:
                    stated_s = _retry_after_s(response)
                    return await self._read(response)
            except UpstreamError as error:
                if not retries_left or error.kind not in _RETRYABLE:
                    raise
            await anyio.sleep(pause_s if stated_s is None else stated_s)
            pause_s *= 2

    @asynccontextmanager
    async def _response(
        self, method: str, path: str, options: Mapping[str, Any]
    ) -> AsyncIterator[httpx.Response]:
        """Send a request, and translate the errors of httpx until the reply is read."""
        timeout_s = self._policy.timeout_s
        try:
            # httpx bounds each read alone, so a slow reply could go on without end.
            with anyio.fail_after(timeout_s):
                async with self._client.stream(method, f"{self._url}{path}", **options) as response:
                    yield response
        except (TimeoutError, httpx.TimeoutException):
            raise self.error("slow", f"did not answer within {timeout_s:g} s") from None
        except httpx.ConnectError:
            raise self.error("unreachable", "cannot be reached from here") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            text = f"closed the connection during the reply ({type(error).__name__})"
            raise self.error("unreachable", text) from None

    async def _read(self, response: httpx.Response) -> bytearray:
        if response.is_redirect:
            raise self.error("redirected", f"redirects to {redirect_target(response) or 'nowhere'}")
        if response.is_error:
            status, request = response.status_code, response.request
            kind = _KINDS.get(status, "failing" if response.is_server_error else "strange")
            raise self.error(kind, f"answers {status} to {request.method} {request.url.path}")
        content = bytearray()
        async for chunk in response.aiter_bytes():  # decompressed
            content += chunk
            if len(content) > MAX_REPLY_BYTES:
                raise self.error("strange", f"answers with more than {MAX_REPLY_BYTES} bytes")
        return content


@cache
def ssl_context() -> ssl.SSLContext:
    """Return one context for all clients: loading the certificate authorities is slow."""
    return httpx.create_ssl_context()


def redirect_target(response: httpx.Response) -> str | None:
    """Return scheme and host of a redirect's target: the rest may hold a secret."""
    target = response.next_request.url if response.next_request else None
    return f"{target.scheme}://{target.netloc.decode()}" if target and target.host else None


def _retry_after_s(response: httpx.Response) -> float | None:
    """Return the seconds in `Retry-After`, two minutes at most; None without a number there."""
    stated = response.headers.get("retry-after", "").strip()
    return min(float(stated), _MAX_PAUSE_S) if stated.isascii() and stated.isdigit() else None
