"""The HTTP application of the ops port: liveness, readiness and metrics."""

import anyio
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.ops.health import Health, Readiness
from worker.web.http_error import unrouted


def ops_app(health: Health, metrics: Collector, *, timeout_s: float = 2.0) -> Starlette:
    """Build the application; `timeout_s` bounds readiness, each scrape collects `metrics`."""

    async def livez(_request: Request) -> Response:
        reason = health.stalled()
        return _probe("stalled" if reason else "ok", reason)

    async def readyz(_request: Request) -> Response:
        readiness = Readiness(ready=False, remark=f"no answer within {timeout_s:g} s")
        with anyio.move_on_after(timeout_s):
            readiness = await health.readiness()
        return _probe("ok" if readiness.ready else "not ready", readiness.remark)

    async def exposition(request: Request) -> Response:
        return _expose(metrics, request.headers.get("accept", ""))

    app = Starlette(
        routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", exposition)],
        exception_handlers={HTTPException: _unrouted},
    )
    app.router.redirect_slashes = False
    return app


def _probe(status: str, reason: str | None) -> Response:
    content = {"status": status} | ({} if reason is None else {"reason": reason})
    return JSONResponse(content, 200 if status == "ok" else 503)


def _expose(metrics: Collector, accept: str) -> Response:
    try:
        encode, content_type = choose_encoder(accept)
    except TypeError:
        # prometheus_client 0.26 raises for a version that is not a number, such as `version=x`.
        encode, content_type = choose_encoder("")
    return Response(encode(metrics), headers={"content-type": content_type})


async def _unrouted(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for this type only)
    return unrouted(error, "GET /livez, GET /readyz and GET /metrics")
