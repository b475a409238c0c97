"""Answers to reads: always JSON, and never cached on the way."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from starlette.types import Send

from worker.web.http_error import HttpError

Headers = tuple[tuple[bytes, bytes], ...]

_ERROR_HEADERS: Final[Mapping[int, Headers]] = {
    401: ((b"www-authenticate", b"Bearer"),),
    405: ((b"allow", b"GET"),),
    503: ((b"retry-after", b"1"),),
}


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer; `tier` is where the data came from, and `result` the outcome: metric labels."""

    code: int
    body: bytes
    tier: str
    result: str
    headers: Headers = ()


def error_answer(error: HttpError, result: str, *, tier: str = "none") -> HttpAnswer:
    """Return the answer for an error."""
    body = msgspec.json.encode({"error": str(error), "reason": error.reason})
    return HttpAnswer(error.code, body, tier, result, _ERROR_HEADERS.get(error.code, ()))


async def send_answer(send: Send, answer: HttpAnswer) -> None:
    """Send an answer; the connection stays open for the next request."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer.body)),
        (b"cache-control", b"no-store"),
        *answer.headers,
    ]
    await send({"type": "http.response.start", "status": answer.code, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
