"""The body of a webhook: its size, its type, and the accounts it names."""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

import anyio
import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request

from worker.core.webhook_members import account_ids
from worker.ingest.body_budget import BodyBuffer, BodyEvicted
from worker.web.http_error import HttpError

LINGER_S: Final = 0.5
"""How long the rest of a rejected body is read and dropped.

Most clients read no answer before they have sent everything; closing at once would look like a
broken connection to them.
"""

_LENGTH_DIGITS: Final = 18


class BodyStream:
    """The chunks of a request body; unlike `Request.stream`, usable after a cancellation."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._is_over = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the chunks not yet read; raises `HttpError` (400) when the client disconnects."""
        while not self._is_over:
            message = await self._request.receive()
            self._is_over = not message.get("more_body", False)
            if message["type"] == "http.disconnect":
                raise HttpError(400, "disconnected", "the connection ended within the body")
            yield message.get("body", b"")

    async def discard(self) -> None:
        """Read and drop the rest, for `LINGER_S` at most."""
        with anyio.move_on_after(LINGER_S), contextlib.suppress(HttpError):
            async for _ in self.chunks():
                pass


async def read(request: Request, max_bytes: int, buffer: BodyBuffer) -> bytes:
    """Read the whole body.

    Raises `HttpError`: 413 as soon as the body is known to be too large, 503 when its memory is
    needed for others, 400 when the client disconnects. What was read is dropped then.
    """
    stream = BodyStream(request)
    try:
        with buffer.receiving():
            await _receive(stream, request.headers, max_bytes, buffer)
    except BodyEvicted as error:
        await stream.discard()
        raise busy() from error
    except HttpError:
        buffer.clear()
        await stream.discard()
        raise
    return buffer.take()


async def _receive(
    stream: BodyStream, headers: Headers, max_bytes: int, buffer: BodyBuffer
) -> None:
    too_large = HttpError(
        413,
        "too_large",
        f"the body is larger than {max_bytes} bytes; raise CHATWOOT_CACHE_WEBHOOK_MAX_BODY_BYTES",
    )
    if max(map(_length, headers.getlist("content-length")), default=0) > max_bytes:
        raise too_large
    async for chunk in stream.chunks():
        if len(buffer) + len(chunk) > max_bytes:
            raise too_large
        await buffer.add(chunk)


def _length(value: str) -> int:
    # An HTTP parser rejects what is not a number; the limit on what is read holds in any case.
    digits = value.strip()
    return int(digits[:_LENGTH_DIGITS]) if digits.isascii() and digits.isdigit() else 0


def busy() -> HttpError:
    """Return the error for a body that finds no memory."""
    return HttpError(503, "busy", "too many large webhooks at once; send it again")


def check_type(headers: Headers) -> None:
    """Raise `HttpError` (415) unless the headers allow plain JSON; absent headers do."""
    if not all(map(_is_json, headers.getlist("content-type"))):
        raise HttpError(415, "bad_content_type", "send Content-Type: application/json")

    encodings = {value.strip().lower() for value in headers.getlist("content-encoding")}
    if not encodings <= {"", "identity"}:
        raise HttpError(
            415, "bad_content_encoding", "send the body as it is, without Content-Encoding"
        )


def _is_json(value: str) -> bool:
    media = value.partition(";")[0].strip().lower()
    return media in {"", "application/json"} or ("/" in media and media.endswith("+json"))


def named_accounts(body: bytes) -> frozenset[int | None]:
    """Return every account the body names; None stands for one that is not a whole number.

    Raises `HttpError` (422) when the body is not a JSON object in UTF-8.
    """
    try:
        body.decode()
        found = account_ids(body)
    except RecursionError as error:
        raise HttpError(422, "too_deep", "the body is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise HttpError(422, "bad_json", "the body is not valid UTF-8") from error
    except msgspec.ValidationError as error:
        raise _bad_type(body) from error
    except msgspec.DecodeError as error:
        raise HttpError(422, "bad_json", "the body is not valid JSON") from error
    return frozenset(value if type(value) is int else None for value in found)


def _bad_type(body: bytes) -> HttpError:
    if body.lstrip().startswith(b"{"):
        return HttpError(422, "bad_json", "a number in the body is out of range")
    return HttpError(422, "not_object", "the body must be a JSON object: one event of Chatwoot")
