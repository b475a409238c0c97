"""The webhook: each event that Chatwoot posts is stored byte for byte, or rejected with a reason.

Chatwoot posts an event once and gives up after 5 s, so every request is answered within 4 s, and
with 200 only once the event is durable. The consumer judges the event's content later.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Final
from urllib.parse import unquote_to_bytes

import anyio
import anyio.to_thread
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from worker.core.bot_contact import is_about_bot
from worker.ingest import webhook_body
from worker.ingest.body_budget import BUDGET_BYTES, BodyBudget, BodyBuffer
from worker.ingest.event_acceptor import AcceptedEvent, EventAcceptor
from worker.ingest.spool.spool_relay import SpoolRelay
from worker.ingest.webhook_auth import Credentials, WebhookPolicy, read_credentials
from worker.ops.logs import LogThrottle, error_site
from worker.ops.metrics import Metrics
from worker.store.stream.stream_reader import StreamProducer
from worker.web.connection_limit import mark_authenticated
from worker.web.http_error import UNROUTED, HttpError, unrouted

PATH: Final = b"/chatwoot/webhook"

_PATHS: Final = "POST /chatwoot/webhook and POST /chatwoot/webhook/{instance}"

ANSWER_S: Final = 3.5
"""When an answer is decided at the latest; the rest of the 4 s is for sending it."""

_LOG_EVERY_S: Final = 60.0
_INSTANCE_BYTES: Final = 255
_DELIVERY_CHARS: Final = 100
_THREAD_BYTES: Final = 4 * 1024 * 1024
"""Bytes that are hashed on the event loop, about 3 ms; more are hashed in a thread."""

log = structlog.get_logger(__name__)


class WebhookApp:
    """The application: answers and counts every request, and logs rejections at a limited rate.

    `fallback` stores events while the stream is unavailable; without one they are rejected.
    `now` returns Unix time in seconds. `budget_bytes` is what bodies may take together, beyond
    the 64 KiB that each has free.
    """

    def __init__(
        self,
        policy: WebhookPolicy,
        stream: StreamProducer,
        metrics: Metrics,
        *,
        fallback: SpoolRelay | None = None,
        now: Callable[[], float] = time.time,
        answer_s: float = ANSWER_S,
        budget_bytes: int = BUDGET_BYTES,
    ) -> None:
        self._policy = policy
        self._acceptor = EventAcceptor(stream, fallback)
        self._metrics = metrics
        self._now = now
        self._answer_s = answer_s
        self._throttle = LogThrottle(_LOG_EVERY_S)
        self._budget = BodyBudget(budget_bytes)
        if policy.closed:
            log.warning("webhook.rejecting_all", reason=policy.closed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; every error is answered as JSON too."""
        try:
            instance = _instance_segment(scope)
        except HTTPException as error:
            self._count(error.status_code, UNROUTED[error.status_code])
            response = unrouted(error, _PATHS)
        else:
            response = await self._answer(Request(scope, receive), instance)
        await response(scope, receive, send)

    async def _answer(self, request: Request, instance: bytes | None) -> JSONResponse:
        with self._metrics.webhook_duration_seconds.time():
            try:
                accepted = await self._accept(request, instance)
            except HttpError as error:
                self._log_rejected(error)
                return self._reject(error)
            # Errors that no module here expects, so defects: the server would answer them without
            # JSON, a metric or a throttled log line.
            except Exception as error:  # noqa: BLE001
                self._log_failed(error)
                return self._reject(HttpError(500, "internal", "the worker failed; see its log"))

        self._count(200, accepted.reason)
        return JSONResponse({"id": accepted.id})

    async def _accept(self, request: Request, instance: bytes | None) -> AcceptedEvent:
        deadline = anyio.current_time() + self._answer_s
        credentials = read_credentials(request)
        try:
            self._check_headers(request, credentials)
        except HttpError:
            await webhook_body.BodyStream(request).discard()
            raise
        has_token = self._policy.has_valid_token(credentials)
        if has_token:
            mark_authenticated(request.scope)
        with self._budget.buffer(authenticated=has_token) as buffer:
            payload = await self._read(request, buffer, deadline)
            with anyio.CancelScope(deadline=deadline):
                fields = {"payload": payload, **_expect(instance), **_delivery(request)}
                account = await self._authorize(request, credentials, payload, has_token=has_token)
                if account is not None:
                    fields["account"] = str(account).encode()
                if is_about_bot(payload):
                    return AcceptedEvent(None, "bot_contact")
                return await self._acceptor.accept(fields, deadline)
        raise HttpError(503, "timeout", "the event could not be stored in time; try again")

    def _check_headers(self, request: Request, credentials: Credentials) -> None:
        if self._policy.closed:
            raise HttpError(503, "closed", self._policy.closed)
        self._policy.check_headers(credentials, self._now())
        webhook_body.check_type(request.headers)

    async def _read(self, request: Request, buffer: BodyBuffer, deadline: float) -> bytes:
        with anyio.CancelScope(deadline=deadline):
            return await webhook_body.read(request, self._policy.max_body_bytes, buffer)
        if buffer.lacked_memory:
            raise webhook_body.busy()
        raise HttpError(408, "slow_body", f"the body did not come within {self._answer_s:g} s")

    async def _authorize(
        self, request: Request, credentials: Credentials, payload: bytes, *, has_token: bool
    ) -> int | None:
        authenticate = partial(self._policy.authenticate, credentials, payload, self._now())
        if len(payload) * sum(map(len, self._policy.secrets.values())) <= _THREAD_BYTES:
            signer = authenticate()
        else:
            signer = await anyio.to_thread.run_sync(authenticate, abandon_on_cancel=True)
        if self._policy.requires_credentials:
            mark_authenticated(request.scope)
        accounts = webhook_body.named_accounts(payload)
        return self._policy.authorize(signer, accounts, has_token=has_token)

    def _reject(self, error: HttpError) -> JSONResponse:
        self._count(error.code, error.reason)
        return error.answer()

    def _count(self, code: int, reason: str) -> None:
        self._metrics.webhook_requests.labels(code=str(code), reason=reason).inc()

    def _log_rejected(self, error: HttpError) -> None:
        suppressed = self._throttle.ready(error.reason)
        if suppressed is not None and not self._policy.closed:  # logged at the start
            log.warning(
                "webhook.rejected",
                code=error.code,
                reason=error.reason,
                hint=str(error),
                suppressed=suppressed,
            )

    def _log_failed(self, error: Exception) -> None:
        suppressed = self._throttle.ready(error_site(error))
        if suppressed is not None:
            log.error("webhook.failed", error=error_site(error), suppressed=suppressed)


def _instance_segment(scope: Scope) -> bytes | None:
    """Return the instance in the raw path: in the decoded one, `%2F` looks like a separator."""
    path: bytes = scope["raw_path"]
    head, *tail = path.removeprefix(PATH).split(b"/")
    if not path.startswith(PATH) or head or len(tail) > 1:
        raise HTTPException(404)
    if scope["method"] != "POST":
        raise HTTPException(405, headers={"Allow": "POST"})
    return tail[0] if tail else None


def _expect(segment: bytes | None) -> dict[str, bytes]:
    if segment is None:
        return {}

    instance = unquote_to_bytes(segment)
    try:
        instance.decode()
        is_valid = 1 <= len(instance) <= _INSTANCE_BYTES
    except UnicodeDecodeError:
        is_valid = False
    if not is_valid:
        raise HttpError(
            422,
            "bad_instance",
            f"the instance in the URL must be 1 to {_INSTANCE_BYTES} bytes of UTF-8, escaped by %",
        )
    return {"expect": instance}


def _delivery(request: Request) -> dict[str, bytes]:
    sent = request.headers.get("x-chatwoot-delivery", "")
    delivery = "".join(c for c in sent if c.isascii() and c.isprintable())[:_DELIVERY_CHARS]
    return {"delivery": delivery.encode()} if delivery else {}
