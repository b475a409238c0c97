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

from worker.core.chat import as_chat
from worker.core.page import Page, Range, as_json
from worker.errors import Refused, Unavailable
from worker.logs import Throttle, where
from worker.metrics import Metrics
from worker.web import openapi, question
from worker.web.answer import Answer, refusal, send_answer
from worker.web.finding import Asked, Documents, Found, find, has, lacks
from worker.web.keys import Keyring
from worker.web.question import Path, Question
from worker.web.rejection import Rejected
from worker.web.waiting import Waiting

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
        self, instance: str, display_id: int, asked: Range
    ) -> Literal["fetched", "missing", "failed"]:
        """Bring messages of a conversation into the cache, and say what became of it."""


class ReadsApp:
    """The read endpoints; `read_s` is how long one look into Redis may take.

    With `through`, a conversation that the cache does not have whole is asked for there.
    """

    def __init__(
        self,
        keyring: Keyring,
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
        self._waiting = Waiting()
        self._throttle = Throttle(_LOG_EVERY_S)

    def drain(self) -> None:
        """Answer those who wait for a message: the worker is stopping."""
        self._waiting.close()

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = time.perf_counter()
        path = question.match(scope["raw_path"])
        answer = await self._answer(scope, path)
        if path is not None:
            took_s = time.perf_counter() - started
            self._metrics.count_read(path.kind, answer.tier, answer.result, took_s)
        await send_answer(send, answer)

    async def _answer(self, scope: Scope, path: Path | None) -> Answer:
        try:
            return await self._answer_allowed(scope, path)
        except Rejected as rejected:
            return refusal(rejected, "rejected")
        except (Unavailable, TimeoutError, Refused) as error:
            return self._unavailable(error)
        except Exception as error:  # noqa: BLE001  (the one place that catches everything)
            self._log_failed(error)
            return refusal(Rejected(500, "internal", "the worker failed; see its log"), "failed")

    async def _answer_allowed(self, scope: Scope, path: Path | None) -> Answer:
        """Answer a request whose key opens what it asks for; nothing is looked up before."""
        if path is None and scope["raw_path"] != openapi.PATH:
            raise Rejected(404, "not_found", f"there is no such path; here is {PATHS}")
        if scope["method"] != "GET":
            raise Rejected(405, "bad_method", "only GET is answered here")
        if path is None:
            return Answer(200, openapi.DOCUMENT, "none", "found")
        grant = self._keyring.grant(scope)
        asked = question.read(path, scope["query_string"])
        grant.check(asked.instance, notes=asked.private)
        return await self._answer_asked(asked)

    async def _answer_asked(self, asked: Question) -> Answer:
        arrived = await self._arrival(asked)
        reader, found = await self._find(asked)
        through = await self._ask_through(asked, found)
        if through == "fetched":
            reader, found = await self._find(asked)
        tier = "local" if reader.from_memory else "redis"
        answer = (
            refusal(_missing(asked), "missing", tier=tier)
            if found is None
            else Answer(
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

    async def _find(self, asked: Question) -> tuple[Asked, Found | None]:
        reader = self._reader(asked)
        with anyio.fail_after(self._read_s):
            return reader, await find(reader, asked)

    async def _ask_through(self, asked: Question, found: Found | None) -> str | None:
        """Fetch a conversation that the cache does not have whole; None where there is no need."""
        if self._through is None or not lacks(found, asked):
            return None
        display_id = found.conversation_id if isinstance(found, Page) else asked.id
        result = await self._through.fetch(asked.instance, display_id, asked.range)
        self._metrics.read_through.labels(result=result).inc()
        return result

    async def _arrival(self, asked: Question) -> bool | None:
        """Wait for the message that is to be waited for; says whether it is there."""
        awaited = asked.wait_for
        if awaited is None:
            return None

        async def is_there() -> bool:
            with anyio.fail_after(self._read_s):
                return await has(self._reader(asked), awaited)

        return await self._waiting.until(is_there, asked.wait_ms / 1000)

    def _reader(self, asked: Question) -> Asked:
        return self._documents.of(asked.instance, notes=asked.private)

    def _unavailable(self, error: Exception) -> Answer:
        if isinstance(error, Refused):
            self._log_failed(error)
            rejected = Rejected(503, "redis_refused", "Redis refuses the worker; see its log")
        elif isinstance(error, TimeoutError):
            text = f"Redis did not answer within {self._read_s:g} s; try again"
            rejected = Rejected(503, "timeout", text)
        else:
            text = "Redis cannot be read now; see the worker's /readyz"
            rejected = Rejected(503, "redis_unavailable", text)
        return refusal(rejected, "unavailable")

    def _log_failed(self, error: Exception) -> None:
        more = self._throttle.ready(where(error))
        if more is not None:
            log.error("read.failed", error=where(error), suppressed=more)


def _written(found: Found, asked: Question, *, arrived: bool | None, through: str | None) -> bytes:
    if not isinstance(found, Page):
        return found.json
    if asked.chat:
        return as_chat(found.messages)
    return as_json(found, arrived=arrived, read_through=through)


def _missing(asked: Question) -> Rejected:
    what = {"messages": "conversation", "source": "message"}.get(asked.kind, asked.kind)
    return Rejected(404, "not_found", f"the cache of this instance has no such {what}")
