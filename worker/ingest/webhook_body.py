"""The body of a webhook: how much of it, of which type, and which accounts it states."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import anyio
import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request

from worker.ingest.body_budget import Body, Evicted
from worker.web.http_error import HttpError

LINGER_S: Final = 0.5
"""How long a client may go on sending what is refused already.

Most read no answer before all is sent; closing at once would show them a broken connection.
"""

_NUMBER_DIGITS: Final = 18


class _Stating(msgspec.Struct):
    """The fields that can state an account; all others are passed over, whatever they hold."""

    account: Any = None
    conversation: Any = None
    messages: Any = None


_DECODER: Final = msgspec.json.Decoder(_Stating)


class Incoming:
    """The body of a request as it comes; unlike `Request.stream`, usable after a cancellation."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._is_over = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give what has not been given yet; raises Rejected (400) when the client hangs up."""
        while not self._is_over:
            message = await self._request.receive()
            self._is_over = not message.get("more_body", False)
            if message["type"] == "http.disconnect":
                raise HttpError(400, "disconnected", "the connection ended within the body")
            yield message.get("body", b"")

    async def pass_over(self) -> None:
        """Read the rest for `LINGER_S`, and keep nothing of it."""
        with anyio.move_on_after(LINGER_S), contextlib.suppress(HttpError):
            async for _ in self.chunks():
                pass


async def read(request: Request, max_bytes: int, into: Body) -> bytes:
    """Read the whole body.

    Raises Rejected once it is known to be too large (413), when others need its room (503), and
    when the client hangs up (400). What has arrived is dropped then, and the rest passed over.
    """
    incoming = Incoming(request)
    try:
        with into.arriving():
            await _receive(incoming, request, max_bytes, into)
    except Evicted as error:
        await incoming.pass_over()
        raise busy() from error
    except HttpError:
        into.drop()
        await incoming.pass_over()
        raise
    return into.take()


async def _receive(incoming: Incoming, request: Request, max_bytes: int, into: Body) -> None:
    if _declared(request) > max_bytes:
        raise _too_large(max_bytes)
    async for chunk in incoming.chunks():
        if len(into) + len(chunk) > max_bytes:
            raise _too_large(max_bytes)
        await into.add(chunk)


def busy() -> HttpError:
    """Refuse a body for which there is no room among the others."""
    return HttpError(503, "busy", "too many large webhooks at once; send it again")


def check_type(headers: Headers) -> None:
    """Raise Rejected (415) for what is said not to be plain JSON; saying nothing is fine."""
    for value in headers.getlist("content-type"):
        if not _is_json(value):
            raise HttpError(415, "bad_content_type", "send Content-Type: application/json")

    for value in headers.getlist("content-encoding"):
        if value.strip().lower() not in {"", "identity"}:
            raise HttpError(
                415, "bad_content_encoding", "send the body as it is, without Content-Encoding"
            )


def stated_accounts(body: bytes) -> frozenset[int | None]:
    """Give every account the body names; None stands for a name that is not a whole number.

    Raises Rejected (422) when the body is no JSON object in UTF-8. Shapes are not judged.
    """
    stating = _decode(body)
    ids = (value for value in _account_ids(stating) if value is not None)
    return frozenset(value if type(value) is int else None for value in ids)


def _too_large(max_bytes: int) -> HttpError:
    return HttpError(
        413,
        "too_large",
        f"the body is larger than {max_bytes} bytes; raise CHATWOOT_CACHE_WEBHOOK_MAX_BODY_BYTES",
    )


def _declared(request: Request) -> int:
    return max(map(_number, request.headers.getlist("content-length")), default=0)


def _number(value: str) -> int:
    # What is no number here never passes an HTTP parser; the limit on what is read still holds.
    digits = value.strip()
    return int(digits[:_NUMBER_DIGITS]) if digits.isascii() and digits.isdigit() else 0


def _is_json(value: str) -> bool:
    media = value.partition(";")[0].strip().lower()
    return media in {"", "application/json"} or ("/" in media and media.endswith("+json"))


def _decode(body: bytes) -> _Stating:
    try:
        body.decode()
        return _DECODER.decode(body)
    except RecursionError as error:
        raise HttpError(422, "too_deep", "the body is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise HttpError(422, "bad_json", "the body is not valid UTF-8") from error
    except msgspec.ValidationError as error:
        raise _not_fitting(body) from error
    except msgspec.DecodeError as error:
        raise HttpError(422, "bad_json", "the body is not valid JSON") from error


def _not_fitting(body: bytes) -> HttpError:
    if body.lstrip().startswith(b"{"):
        return HttpError(422, "bad_json", "a number in the body is out of range")
    return HttpError(422, "not_object", "the body must be a JSON object: one event of Chatwoot")


def _account_ids(stating: _Stating) -> Iterator[Any]:
    yield _get(stating.account, "id")
    yield _get(_get(stating.conversation, "account"), "id")
    for message in _items(stating.messages):
        yield _get(message, "account_id")
    for message in _items(_get(stating.conversation, "messages")):
        yield _get(message, "account_id")


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
