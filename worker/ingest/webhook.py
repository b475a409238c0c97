"""The webhook: each event that Chatwoot posts is stored byte for byte, or rejected with a reason.

Chatwoot posts an event once and gives up after 5 s, so every request is answered within 4 s, and
with 200 only once the event is durable. The consumer judges the event's content later.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final
from urllib.parse import unquote_to_bytes

import anyio
import anyio.to_thread
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from worker.core.bot_contact import is_about_bot
from worker.ingest import webhook_auth, webhook_body
from worker.ingest.body_budget import BUDGET_BYTES, BodyBudget, BodyBuffer
from worker.ingest.event_acceptor import AcceptedEvent, EventAcceptor
from worker.ingest.spool.spool_relay import SpoolRelay
from worker.ingest.webhook_auth import Credentials, WebhookPolicy
from worker.ops.logs import LogThrottle, error_site
from worker.ops.metrics import Metrics
from worker.store.stream.stream_reader import StreamProducer
from worker.web.connection_limit import mark_authenticated
from worker.web.http_error import UNROUTED, HttpError, unrouted

PATH: Final = b"/chatwoot/webhook"

ANSWER_S: Final = 3.5
"""When an answer is decided at the latest; the rest of the 4 s is for sending it."""

_LOG_EVERY_S: Final = 60.0
_INSTANCE_BYTES: Final = 255
_DELIVERY_CHARS: Final = 100
_THREAD_BYTES: Final = 4 * 1024 * 1024
"""Bytes that are hashed on the event loop, about 3 ms; more are hashed in a thread."""

log = structlog.get_logger(__name__)


def webhook_app(
    policy: WebhookPolicy,
    stream: StreamProducer,
    metrics: Metrics,
    *,
    fallback: SpoolRelay | None = None,
    now: Callable[[], float] = time.time,
    answer_s: float = ANSWER_S,
    budget_bytes: int = BUDGET_BYTES,
) -> Starlette:
    """Build the application; logs `webhook.rejecting_all` where the policy is closed.

    `fallback` stores events while the stream is unavailable; without one they are rejected.
    `now` returns Unix time in seconds. `budget_bytes` is what bodies may take together, beyond
    the 64 KiB that each has free.
    """
    if policy.closed:
        log.warning("webhook.rejecting_all", reason=policy.closed)

    acceptor = EventAcceptor(stream, fallback)
    webhook = _Webhook(policy, acceptor, metrics, now, answer_s, BodyBudget(budget_bytes))
    app = Starlette(
        routes=[_InstanceRoute(PATH.decode(), webhook.answer, methods=["POST"])],
        exception_handlers={HTTPException: webhook.answer_unrouted},
    )
    app.router.redirect_slashes = False
    return app


class _InstanceRoute(Route):
    """Matches the raw path: in the decoded one, `%2F` in a name looks like a separator."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        head, *tail = scope["raw_path"].removeprefix(PATH).split(b"/")
        if not scope["raw_path"].startswith(PATH) or head or len(tail) > 1:
            return Match.NONE, {}

        found = {"endpoint": self.endpoint, "path_params": {"instance": tail[0] if tail else None}}
        return (Match.FULL if scope["method"] == "POST" else Match.PARTIAL), found


class _Webhook:
    """The endpoint: answers and counts every request, and logs rejections at a limited rate."""

    def __init__(
        self,
        policy: WebhookPolicy,
        acceptor: EventAcceptor,
        metrics: Metrics,
        now: Callable[[], float],
        answer_s: float,
        budget: BodyBudget,
    ) -> None:
        self._policy = policy
        self._acceptor = acceptor
        self._metrics = metrics
        self._now = now
        self._answer_s = answer_s
        self._throttle = LogThrottle(_LOG_EVERY_S)
        self._budget = budget

    async def answer(self, request: Request) -> Response:
        """Accept an event; every error is answered as JSON too."""
        with self._metrics.webhook_duration_seconds.time():
            try:
                accepted = await self._accept(request)
            except HttpError as error:
                self._log_rejected(error)
                return self._reject(error)
            # Errors that no module here expects, so defects: Starlette would answer them without
            # JSON, a metric or a throttled log line.
            except Exception as error:  # noqa: BLE001
                self._log_failed(error)
                return self._reject(HttpError(500, "internal", "the worker failed; see its log"))

        self._count(200, accepted.reason)
        return JSONResponse({"id": accepted.id})

    async def answer_unrouted(self, _request: Request, error: Exception) -> Response:
        """Answer an unknown path or method."""
        assert isinstance(error, HTTPException)  # noqa: S101  (registered for nothing else)
        self._count(error.status_code, UNROUTED[error.status_code])
        return unrouted(error, "POST /chatwoot/webhook and POST /chatwoot/webhook/{instance}")

    async def _accept(self, request: Request) -> AcceptedEvent:
        deadline = anyio.current_time() + self._answer_s
        credentials = webhook_auth.read_credentials(request)
        try:
            self._check_headers(request, credentials)
        except HttpError:
            await webhook_body.BodyStream(request).discard()
            raise
        has_token = webhook_auth.has_valid_token(self._policy, credentials)
        if has_token:
            mark_authenticated(request.scope)
        with self._budget.buffer(authenticated=has_token) as buffer:
            payload = await self._read(request, buffer, deadline)
            late = HttpError(503, "timeout", "the event could not be stored in time; try again")
            with _error_at(deadline, late):
                fields = await self._fields(request, credentials, payload)
                if is_about_bot(payload):
                    return AcceptedEvent(None, "bot_contact")
                return await self._acceptor.accept(fields, deadline)

    def _check_headers(self, request: Request, credentials: Credentials) -> None:
        if self._policy.closed:
            raise HttpError(503, "closed", self._policy.closed)
        webhook_auth.check_headers(self._policy, credentials, self._now())
        webhook_body.check_type(request.headers)

    async def _read(self, request: Request, buffer: BodyBuffer, deadline: float) -> bytes:
        slow = HttpError(408, "slow_body", f"the body did not come within {self._answer_s:g} s")
        try:
            with _error_at(deadline, slow):
                return await webhook_body.read(request, self._policy.max_body_bytes, buffer)
        except HttpError as error:
            if error is slow and buffer.lacked_memory:
                raise webhook_body.busy() from error
            raise

    async def _fields(
        self, request: Request, credentials: Credentials, payload: bytes
    ) -> dict[str, bytes]:
        fields = {"payload": payload, **_expect(request), **_delivery(request)}
        result = await self._authenticate(credentials, payload)
        if self._policy.requires_credentials:
            mark_authenticated(request.scope)
        accounts = webhook_body.named_accounts(payload)
        account = webhook_auth.authorize(self._policy, result, accounts)
        if account is not None:
            fields["account"] = str(account).encode()
        return fields

    async def _authenticate(
        self, credentials: Credentials, payload: bytes
    ) -> webhook_auth.AuthResult:
        check = partial(webhook_auth.authenticate, self._policy, credentials, payload, self._now())
        if len(payload) * sum(map(len, self._policy.secrets.values())) <= _THREAD_BYTES:
            return check()
        return await anyio.to_thread.run_sync(check, abandon_on_cancel=True)

    def _reject(self, error: HttpError) -> Response:
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


@contextmanager
def _error_at(deadline: float, error: HttpError) -> Iterator[None]:
    """Cancel the block at the deadline and raise the error."""
    with anyio.CancelScope(deadline=deadline) as scope:
        yield
    if scope.cancelled_caught:
        raise error


def _expect(request: Request) -> dict[str, bytes]:
    segment = request.path_params["instance"]
    if segment is None:
        return {}

    instance = unquote_to_bytes(segment)
    if not 1 <= len(instance) <= _INSTANCE_BYTES or not _is_utf8(instance):
        raise HttpError(
            422,
            "bad_instance",
            f"the instance in the URL must be 1 to {_INSTANCE_BYTES} bytes of UTF-8, escaped by %",
        )
    return {"expect": instance}


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _delivery(request: Request) -> dict[str, bytes]:
    sent = request.headers.get("x-chatwoot-delivery", "")
    delivery = "".join(c for c in sent if c.isascii() and c.isprintable())[:_DELIVERY_CHARS]
    return {"delivery": delivery.encode()} if delivery else {}
