"""An answer to a read: always JSON, never to be kept by anything on the way."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from starlette.types import Send

from worker.web.http_error import HttpError

Headers = tuple[tuple[bytes, bytes], ...]

_BESIDE: Final[Mapping[int, Headers]] = {
    401: ((b"www-authenticate", b"Bearer"),),
    405: ((b"allow", b"GET"),),
    503: ((b"retry-after", b"1"),),
}


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What goes back; `tier` is where it came from, `result` what became of the question."""

    code: int
    body: bytes
    tier: str
    result: str
    headers: Headers = ()


def error_answer(rejected: HttpError, result: str, *, tier: str = "none") -> HttpAnswer:
    """Say why not."""
    body = msgspec.json.encode({"error": str(rejected), "reason": rejected.reason})
    return HttpAnswer(rejected.code, body, tier, result, _BESIDE.get(rejected.code, ()))


async def send_answer(send: Send, answer: HttpAnswer) -> None:
    """Send it, and leave the connection open for the next question."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer.body)),
        (b"cache-control", b"no-store"),
        *answer.headers,
    ]
    await send({"type": "http.response.start", "status": answer.code, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
