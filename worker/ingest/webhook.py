"""Where Chatwoot posts its events: each goes to the stream byte for byte, or is refused aloud.

Chatwoot tries once and gives up after 5 s, so every answer is given within 4 s, and 200 only
once the event stands in the stream, or on the disk. What it means is judged later, by the
pipeline.
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
from worker.ingest.body_budget import BUDGET_BYTES, Body, Budget
from worker.ingest.event_acceptor import AcceptedEvent, EventAcceptor, EventStream, Fallback
from worker.ingest.webhook_auth import WebhookPolicy
from worker.ops.logs import LogThrottle, error_site
from worker.ops.metrics import Metrics
from worker.web.connection_limit import prove_connection
from worker.web.http_error import UNROUTED, HttpError, unrouted

__all__ = ["ANSWER_S", "EventStream", "Fallback", "WebhookPolicy", "webhook_app"]

PATH: Final = b"/chatwoot/webhook"

ANSWER_S: Final = 3.5
"""When an answer is decided at the latest; the rest of the 4 s is for sending it."""

_LOG_EVERY_S: Final = 60.0
_INSTANCE_BYTES: Final = 255
_DELIVERY_CHARS: Final = 100
_THREAD_BYTES: Final = 4 * 1024 * 1024  # about 3 ms of hashing; above it the loop would stall

log = structlog.get_logger(__name__)


def webhook_app(
    rules: WebhookPolicy,
    stream: EventStream,
    metrics: Metrics,
    *,
    refuge: Fallback | None = None,
    now: Callable[[], float] = time.time,
    answer_s: float = ANSWER_S,
    budget_bytes: int = BUDGET_BYTES,
) -> Starlette:
    """Build the application; logs `webhook.closed` once where it has to refuse everything.

    `refuge` is where events go while the stream takes none; without one they are refused then.
    `now` gives Unix time in seconds; `answer_s` is how long a request may take, and
    `budget_bytes` what bodies may take together, beyond the 64 KB that each has free.
    """
    if rules.closed:
        log.warning("webhook.rejecting_all", reason=rules.closed)

    budget = Budget(budget_bytes)
    webhook = _Webhook(rules, EventAcceptor(stream, refuge), metrics, now, answer_s, budget)
    app = Starlette(
        routes=[_InstanceRoute(PATH.decode(), webhook.answer, methods=["POST"])],
        exception_handlers={HTTPException: webhook.answer_unrouted},
    )
    app.router.redirect_slashes = False
    return app


class _InstanceRoute(Route):
    """Matches on the raw path: in the decoded one a `%2F` of a name looks like a separator."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        head, *tail = scope["raw_path"].removeprefix(PATH).split(b"/")
        if not scope["raw_path"].startswith(PATH) or head or len(tail) > 1:
            return Match.NONE, {}

        found = {"endpoint": self.endpoint, "path_params": {"instance": tail[0] if tail else None}}
        return (Match.FULL if scope["method"] == "POST" else Match.PARTIAL), found


class _Webhook:
    """The endpoint: answers every request, counts it, and logs the refusals sparingly."""

    def __init__(
        self,
        rules: WebhookPolicy,
        intake: EventAcceptor,
        metrics: Metrics,
        now: Callable[[], float],
        answer_s: float,
        budget: Budget,
    ) -> None:
        self._rules = rules
        self._intake = intake
        self._metrics = metrics
        self._now = now
        self._answer_s = answer_s
        self._throttle = LogThrottle(_LOG_EVERY_S)
        self._budget = budget

    async def answer(self, request: Request) -> Response:
        """Take an event; whatever happens, the answer is JSON."""
        with self._metrics.webhook_duration_seconds.time():
            try:
                taken = await self._take(request)
            except HttpError as rejected:
                self._log_rejected(rejected)
                return self._rejected(rejected)
            except Exception as error:  # noqa: BLE001  (the one place that catches everything)
                self._log_failed(error)
                return self._rejected(HttpError(500, "internal", "the worker failed; see its log"))

        self._count(200, taken.where)
        return JSONResponse({"id": taken.id})

    async def answer_unrouted(self, _request: Request, error: Exception) -> Response:
        """Answer a path or a method there is not."""
        assert isinstance(error, HTTPException)  # noqa: S101  (registered for nothing else)
        self._count(error.status_code, UNROUTED[error.status_code])
        return unrouted(error, "POST /chatwoot/webhook and POST /chatwoot/webhook/{instance}")

    async def _take(self, request: Request) -> AcceptedEvent:
        deadline = anyio.current_time() + self._answer_s
        shown = webhook_auth.credentials(request)
        await self._refuse_unread(request, shown)
        has_token = webhook_auth.token_holds(self._rules, shown)
        if has_token:
            prove_connection(request.scope)
        with self._budget.body(proven=has_token) as held:
            payload = await self._read(request, held, deadline)
            late = HttpError(503, "timeout", "the stream did not take the event in time; try again")
            with _until(deadline, late):
                fields = await self._fields(request, shown, payload)
                if is_about_bot(payload):
                    return AcceptedEvent(None, "bot_contact")
                return await self._intake.take(fields, deadline)

    async def _read(self, request: Request, held: Body, deadline: float) -> bytes:
        slow = HttpError(408, "slow_body", f"the body did not come within {self._answer_s:g} s")
        try:
            with _until(deadline, slow):
                return await webhook_body.read(request, self._rules.max_body_bytes, held)
        except HttpError as rejected:
            if rejected is slow and held.lacked_room:
                raise webhook_body.busy() from rejected
            raise

    async def _refuse_unread(self, request: Request, shown: webhook_auth.Credentials) -> None:
        """Refuse what its headers condemn, keeping nothing of its body."""
        try:
            self._check_headers(request, shown)
        except HttpError:
            await webhook_body.Incoming(request).pass_over()
            raise

    def _check_headers(self, request: Request, shown: webhook_auth.Credentials) -> None:
        if self._rules.closed:
            raise HttpError(503, "closed", self._rules.closed)
        webhook_auth.precheck(self._rules, shown, self._now())
        webhook_body.check_type(request.headers)

    async def _fields(
        self, request: Request, shown: webhook_auth.Credentials, payload: bytes
    ) -> dict[str, bytes]:
        fields = {"payload": payload, **_expect(request), **_delivery(request)}
        proof = await self._prove(shown, payload)
        if self._rules.guarded:
            prove_connection(request.scope)
        account = webhook_auth.authorize(self._rules, proof, webhook_body.stated_accounts(payload))
        if account is not None:
            fields["account"] = str(account).encode()
        return fields

    async def _prove(
        self, shown: webhook_auth.Credentials, payload: bytes
    ) -> webhook_auth.AuthResult:
        prove = partial(webhook_auth.authenticate, self._rules, shown, payload, self._now())
        if len(payload) * sum(map(len, self._rules.secrets.values())) <= _THREAD_BYTES:
            return prove()
        return await anyio.to_thread.run_sync(prove, abandon_on_cancel=True)

    def _rejected(self, rejected: HttpError) -> Response:
        self._count(rejected.code, rejected.reason)
        return rejected.answer()

    def _count(self, code: int, reason: str) -> None:
        self._metrics.webhook_requests.labels(code=str(code), reason=reason).inc()

    def _log_rejected(self, rejected: HttpError) -> None:
        more = self._throttle.ready(rejected.reason)
        if more is not None and not self._rules.closed:  # that was said at the start
            log.warning(
                "webhook.rejected",
                code=rejected.code,
                reason=rejected.reason,
                hint=str(rejected),
                suppressed=more,
            )

    def _log_failed(self, error: Exception) -> None:
        more = self._throttle.ready(error_site(error))
        if more is not None:
            log.error("webhook.failed", error=error_site(error), suppressed=more)


@contextmanager
def _until(deadline: float, late: HttpError) -> Iterator[None]:
    with anyio.CancelScope(deadline=deadline) as scope:
        yield
    if scope.cancelled_caught:
        raise late


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
    said = request.headers.get("x-chatwoot-delivery", "")
    kept = "".join(c for c in said if c.isascii() and c.isprintable())[:_DELIVERY_CHARS]
    return {"delivery": kept.encode()} if kept else {}
