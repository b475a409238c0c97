"""What bots ask: a message, a conversation, the last messages of one.

An application of plain ASGI: routing, reading and answering take less time than a framework's
wrapping of them, and this is where a millisecond counts.
"""

import time
from dataclasses import replace
from typing import Final, Literal, Protocol

import anyio
import structlog
from starlette.types import Receive, Scope, Send

from worker.core.chat_format import as_chat
from worker.core.message_page import MessagePage, MessageRange, page_json
from worker.errors import PermissionRefused, RedisUnavailable
from worker.ops.logs import LogThrottle, error_site
from worker.ops.metrics import Metrics
from worker.reads import openapi, read_request
from worker.reads.api_keys import ApiKeys
from worker.reads.long_poll import LongPoll
from worker.reads.lookup import Asked, Documents, Found, find, has, may_be_incomplete
from worker.reads.read_request import ReadPath, ReadRequest
from worker.web.connection_limit import mark_authenticated
from worker.web.http_error import HttpError
from worker.web.response import HttpAnswer, error_answer, send_answer

READ_S: Final = 2.0
"""How long an answer from Redis may take."""

PATHS: Final = (
    "GET /instances/{instance}/messages/{id}, …/messages?source_id=, …/conversations/{id},"
    " …/conversations/{id}/messages, …/contacts/{jid or phone}/messages and GET /openapi.json"
)

_LOG_EVERY_S: Final = 60.0

log = structlog.get_logger(__name__)


class Through(Protocol):
    """Where what the cache does not have is asked for."""

    async def fetch(
        self, instance: str, display_id: int, asked: MessageRange
    ) -> Literal["fetched", "missing", "failed"]:
        """Bring messages of a conversation into the cache, and say what became of it."""


class ReadsApp:
    """The read endpoints; `read_s` is how long one look into Redis may take.

    With `through`, a conversation that the cache does not have whole is asked for there.
    """

    def __init__(
        self,
        keyring: ApiKeys,
        documents: Documents,
        metrics: Metrics,
        *,
        read_s: float = READ_S,
        through: Through | None = None,
    ) -> None:
        self._through = through
        self._keyring = keyring
        self._documents = documents
        self._metrics = metrics
        self._read_s = read_s
        self._waiting = LongPoll()
        self._throttle = LogThrottle(_LOG_EVERY_S)

    def drain(self) -> None:
        """Answer those who wait for a message: the worker is stopping."""
        self._waiting.close()

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = time.perf_counter()
        path = read_request.match(scope["raw_path"])
        answer = await self._answer(scope, path)
        if path is not None:
            took_s = time.perf_counter() - started
            self._metrics.count_read(path.kind, answer.tier, answer.result, took_s)
        await send_answer(send, answer)

    async def _answer(self, scope: Scope, path: ReadPath | None) -> HttpAnswer:
        try:
            return await self._answer_allowed(scope, path)
        except HttpError as rejected:
            return error_answer(rejected, "rejected")
        except (RedisUnavailable, TimeoutError, PermissionRefused) as error:
            return self._unavailable(error)
        except Exception as error:  # noqa: BLE001  (the one place that catches everything)
            self._log_failed(error)
            return error_answer(
                HttpError(500, "internal", "the worker failed; see its log"), "failed"
            )

    async def _answer_allowed(self, scope: Scope, path: ReadPath | None) -> HttpAnswer:
        """Answer a request whose key opens what it asks for; nothing is looked up before."""
        if path is None and scope["raw_path"] != openapi.PATH:
            raise HttpError(404, "not_found", f"there is no such path; here is {PATHS}")
        if scope["method"] != "GET":
            raise HttpError(405, "bad_method", "only GET is answered here")
        if path is None:
            return HttpAnswer(200, openapi.DOCUMENT, "none", "found")
        grant = self._keyring.grant(scope)
        mark_authenticated(scope)
        asked = read_request.parse_request(path, scope["query_string"])
        grant.check(asked.instance, notes=asked.private)
        return await self._answer_asked(asked)

    async def _answer_asked(self, asked: ReadRequest) -> HttpAnswer:
        arrived = await self._arrival(asked)
        reader, found = await self._find(asked)
        through = await self._ask_through(asked, found)
        if through == "fetched":
            reader, found = await self._find(asked)
        tier = "local" if reader.from_memory else "redis"
        answer = (
            error_answer(_missing(asked), "missing", tier=tier)
            if found is None
            else HttpAnswer(
                200, _written(found, asked, arrived=arrived, through=through), tier, "found"
            )
        )
        # Beside the answer too: a chat is a bare array, and has no room for it.
        headers = answer.headers
        if arrived is not None:
            headers += ((b"x-arrived", b"true" if arrived else b"false"),)
        if through is not None:
            headers += ((b"x-read-through", through.encode()),)
        return replace(answer, headers=headers)

    async def _find(self, asked: ReadRequest) -> tuple[Asked, Found | None]:
        reader = self._reader(asked)
        with anyio.fail_after(self._read_s):
            return reader, await find(reader, asked)

    async def _ask_through(self, asked: ReadRequest, found: Found | None) -> str | None:
        """Fetch a conversation that the cache does not have whole; None where there is no need."""
        if self._through is None or not may_be_incomplete(found, asked):
            return None
        display_id = found.conversation_id if isinstance(found, MessagePage) else asked.id
        result = await self._through.fetch(asked.instance, display_id, asked.range)
        self._metrics.read_through.labels(result=result).inc()
        return result

    async def _arrival(self, asked: ReadRequest) -> bool | None:
        """Wait for the message that is to be waited for; says whether it is there."""
        awaited = asked.wait_for
        if awaited is None:
            return None

        async def is_there() -> bool:
            with anyio.fail_after(self._read_s):
                return await has(self._reader(asked), awaited)

        return await self._waiting.until(is_there, asked.wait_ms / 1000)

    def _reader(self, asked: ReadRequest) -> Asked:
        return self._documents.of(asked.instance, notes=asked.private)

    def _unavailable(self, error: Exception) -> HttpAnswer:
        if isinstance(error, PermissionRefused):
            self._log_failed(error)
            rejected = HttpError(503, "redis_refused", "Redis refuses the worker; see its log")
        elif isinstance(error, TimeoutError):
            text = f"Redis did not answer within {self._read_s:g} s; try again"
            rejected = HttpError(503, "timeout", text)
        else:
            text = "Redis cannot be read now; see the worker's /readyz"
            rejected = HttpError(503, "redis_unavailable", text)
        return error_answer(rejected, "unavailable")

    def _log_failed(self, error: Exception) -> None:
        more = self._throttle.ready(error_site(error))
        if more is not None:
            log.error("read.failed", error=error_site(error), suppressed=more)


def _written(
    found: Found, asked: ReadRequest, *, arrived: bool | None, through: str | None
) -> bytes:
    if not isinstance(found, MessagePage):
        return found.json
    if asked.chat:
        return as_chat(found.messages)
    return page_json(found, arrived=arrived, read_through=through)


def _missing(asked: ReadRequest) -> HttpError:
    what = {"messages": "conversation", "source": "message"}.get(asked.kind, asked.kind)
    return HttpError(404, "not_found", f"the cache of this instance has no such {what}")
