"""What an orchestrator and Prometheus ask: alive, ready, and the figures."""

from typing import Final, Protocol

import anyio
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.ops.health import Readiness
from worker.web.http_error import unrouted

READY_WITHIN_S: Final = 2.0
"""How long readiness may take to tell: a probe that hangs says less than one that fails."""


class Health(Protocol):
    """How the worker is."""

    def stalled(self) -> str | None:
        """Why the loop makes no progress, None when it does; Redis being away is no reason."""
        ...

    async def readiness(self) -> Readiness:
        """Whether a webhook can be taken durably now."""
        ...


def ops_app(health: Health, metrics: Collector, *, within_s: float = READY_WITHIN_S) -> Starlette:
    """Build the application of the ops port; `metrics` is asked anew for every scrape."""

    async def livez(_request: Request) -> Response:
        reason = health.stalled()
        return _probe(None if reason is None else "stalled", reason)

    async def readyz(_request: Request) -> Response:
        found = await _readiness(health, within_s)
        return _probe(None if found.ready else "not ready", found.remark)

    async def exposition(request: Request) -> Response:
        return _expose(metrics, request.headers.get("accept", ""))

    app = Starlette(
        routes=[
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/metrics", exposition),
        ],
        exception_handlers={HTTPException: _unrouted},
    )
    app.router.redirect_slashes = False
    return app


def _probe(failing: str | None, reason: str | None) -> Response:
    said = {"status": failing or "ok"} | ({} if reason is None else {"reason": reason})
    return JSONResponse(said, 503 if failing else 200)


async def _readiness(health: Health, within_s: float) -> Readiness:
    with anyio.move_on_after(within_s):
        return await health.readiness()
    return Readiness(ready=False, remark=f"no answer within {within_s:g} s")


def _expose(metrics: Collector, accept: str) -> Response:
    try:
        encode, content_type = choose_encoder(accept)
    except TypeError:
        # prometheus_client 0.26 compares a version it cannot read, such as `version=x`.
        encode, content_type = choose_encoder("")
    return Response(encode(metrics), headers={"content-type": content_type})


async def _unrouted(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for nothing else)
    return unrouted(error, "GET /livez, GET /readyz and GET /metrics")
