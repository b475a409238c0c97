"""The read endpoints: a message, a conversation, the last messages of a conversation.

A plain ASGI application: routing and response objects of a framework take longer than the read.
"""

import time
from dataclasses import replace
from typing import Final

import anyio
import structlog
from starlette.types import Receive, Scope, Send

from worker.chatwoot.read_through import ReadThrough
from worker.core.history.chat_format import as_chat
from worker.core.history.message_page import MessagePage, page_json
from worker.errors import PermissionDenied, RedisUnavailable
from worker.ops.logs import LogThrottle, error_site
from worker.ops.metrics import Metrics
from worker.reads import openapi
from worker.reads.api_keys import ApiKeys
from worker.reads.long_poll import LongPoll
from worker.reads.lookup import Found, find, has_message, may_be_incomplete
from worker.reads.read_request import ReadPath, ReadRequest, match_path, parse_request
from worker.store.cache.document_reader import DocumentReader, InstanceReader
from worker.web.connection_limit import mark_authenticated
from worker.web.http_error import HttpError
from worker.web.response import HttpAnswer, error_answer, send_answer

READ_S: Final = 2.0

PATHS: Final = (
    "GET /instances/{instance}/messages/{id}, …/messages?source_id=, …/conversations/{id},"
    " …/conversations/{id}/messages, …/contacts/{jid or phone}/messages and GET /openapi.json"
)

_LOG_EVERY_S: Final = 60.0

log = structlog.get_logger(__name__)


class ReadsApp:
    """The read endpoints; `read_s` limits the time of one look-up in Redis.

    With `through`, a conversation that the cache has only in part is fetched from Chatwoot.
    """

    def __init__(
        self,
        api_keys: ApiKeys,
        documents: DocumentReader,
        metrics: Metrics,
        *,
        read_s: float = READ_S,
        through: ReadThrough | None = None,
    ) -> None:
        self._api_keys = api_keys
        self._documents = documents
        self._metrics = metrics
        self._read_s = read_s
        self._read_through = through
        self._long_poll = LongPoll()
        self._throttle = LogThrottle(_LOG_EVERY_S)

    def drain(self) -> None:
        """Answer the requests that wait for a message: the worker is stopping."""
        self._long_poll.close()

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = time.perf_counter()
        path = match_path(scope["raw_path"])
        answer = await self._answer(scope, path)
        if path is not None:
            took_s = time.perf_counter() - started
            self._metrics.count_read(path.kind, answer.tier, answer.result, took_s)
        await send_answer(send, answer)

    async def _answer(self, scope: Scope, path: ReadPath | None) -> HttpAnswer:
        try:
            if path is None:
                return _answer_without_path(scope)
            _check_method(scope)
            permission = self._api_keys.authorize(scope)
            mark_authenticated(scope)
            request = parse_request(path, scope["query_string"])
            permission.check(request.instance, notes=request.private)
            return await self._answer_read(request)
        except HttpError as error:
            return error_answer(error, "rejected")
        except (RedisUnavailable, TimeoutError, PermissionDenied) as error:
            return self._answer_unavailable(error)
        except Exception as error:  # noqa: BLE001  (a defect must not end the connection)
            self._log_failed(error)
            return error_answer(
                HttpError(500, "internal", "the worker failed; see its log"), "failed"
            )

    async def _answer_read(self, request: ReadRequest) -> HttpAnswer:
        arrived = await self._wait_for_message(request)
        reader, found = await self._find(request)
        fetched = await self._fetch_missing(request, found)
        if fetched == "fetched":
            reader, found = await self._find(request)
        tier = "local" if reader.from_memory else "redis"
        if found is None:
            answer = error_answer(_not_found(request), "missing", tier=tier)
        else:
            body = _encode(found, request, arrived=arrived, read_through=fetched)
            answer = HttpAnswer(200, body, tier, "found")
        # Also as headers: the body of format=chat is a bare array, without room for members.
        headers = answer.headers
        if arrived is not None:
            headers += ((b"x-arrived", b"true" if arrived else b"false"),)
        if fetched is not None:
            headers += ((b"x-read-through", fetched.encode()),)
        return replace(answer, headers=headers)

    async def _find(self, request: ReadRequest) -> tuple[InstanceReader, Found | None]:
        reader = self._documents.of(request.instance, notes=request.private)
        with anyio.fail_after(self._read_s):
            return reader, await find(reader, request)

    async def _fetch_missing(self, request: ReadRequest, found: Found | None) -> str | None:
        """Fetch an incomplete conversation from Chatwoot; None where that is not needed."""
        if self._read_through is None or not may_be_incomplete(found, request):
            return None
        display_id = found.conversation_id if isinstance(found, MessagePage) else request.id
        result = await self._read_through.fetch(request.instance, display_id, request.range)
        self._metrics.read_through.labels(result=result).inc()
        return result

    async def _wait_for_message(self, request: ReadRequest) -> bool | None:
        """Return whether the message of `wait_for` arrived, None without `wait_for`."""
        message = request.wait_for
        if message is None:
            return None

        async def has_arrived() -> bool:
            reader = self._documents.of(request.instance, notes=request.private)
            with anyio.fail_after(self._read_s):
                return await has_message(reader, message)

        return await self._long_poll.wait_until(has_arrived, request.wait_ms / 1000)

    def _answer_unavailable(self, error: Exception) -> HttpAnswer:
        reason, text = "redis_unavailable", "Redis is unavailable; see the worker's /readyz"
        if isinstance(error, PermissionDenied):
            self._log_failed(error)
            reason, text = "redis_refused", "Redis refuses the worker; see its log"
        elif isinstance(error, TimeoutError):
            reason = "timeout"
            text = f"Redis did not answer within {self._read_s:g} s; try again"
        return error_answer(HttpError(503, reason, text), "unavailable")

    def _log_failed(self, error: Exception) -> None:
        suppressed = self._throttle.ready(error_site(error))
        if suppressed is not None:
            log.error("read.failed", error=error_site(error), suppressed=suppressed)


def _answer_without_path(scope: Scope) -> HttpAnswer:
    if scope["raw_path"] != openapi.PATH:
        raise HttpError(404, "not_found", f"there is no such path; known are {PATHS}")
    _check_method(scope)
    return HttpAnswer(200, openapi.DOCUMENT, "none", "found")


def _check_method(scope: Scope) -> None:
    if scope["method"] != "GET":
        raise HttpError(405, "bad_method", "only GET is supported")


def _encode(
    found: Found, request: ReadRequest, *, arrived: bool | None, read_through: str | None
) -> bytes:
    if not isinstance(found, MessagePage):
        return found.json
    if request.format == "chat":
        return as_chat(found.messages, found.linked)
    return page_json(found, arrived=arrived, read_through=read_through)


def _not_found(request: ReadRequest) -> HttpError:
    noun = {"messages": "conversation", "source": "message"}.get(request.kind, request.kind)
    return HttpError(404, "not_found", f"the cache of this instance has no such {noun}")
