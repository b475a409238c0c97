"""The ops port: liveness, readiness and metrics."""

from collections.abc import AsyncIterator

import anyio
import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from worker.ops.health import Health, Readiness
from worker.ops.metrics import Metrics
from worker.ops.probes import ops_app


class Worker(Health):
    """Health with fixed answers."""

    def __init__(self) -> None:
        self.why_stalled: str | None = None
        self.found = Readiness(ready=True)
        self.hangs = False

    def stalled(self) -> str | None:
        return self.why_stalled

    async def readiness(self) -> Readiness:
        if self.hangs:
            await anyio.sleep_forever()
        return self.found


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
async def ops(worker: Worker) -> AsyncIterator[httpx.AsyncClient]:
    app = ops_app(worker, Metrics("1", max_instances=5), timeout_s=0.01)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://ops"
    ) as client:
        yield client


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_a_healthy_worker_is_ok(ops: httpx.AsyncClient, path: str) -> None:
    answer = await ops.get(path)

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_a_stalled_worker_says_why(ops: httpx.AsyncClient, worker: Worker) -> None:
    worker.why_stalled = "no progress for 90 s"

    answer = await ops.get("/livez")

    assert answer.status_code == 503
    assert answer.json() == {"status": "stalled", "reason": "no progress for 90 s"}


async def test_an_unready_worker_is_alive(ops: httpx.AsyncClient, worker: Worker) -> None:
    worker.found = Readiness(ready=False, remark="Redis is away")

    answer = await ops.get("/readyz")

    assert answer.status_code == 503
    assert answer.json() == {"status": "not ready", "reason": "Redis is away"}
    assert (await ops.get("/livez")).status_code == 200


async def test_a_ready_worker_reports_an_outage(ops: httpx.AsyncClient, worker: Worker) -> None:
    worker.found = Readiness(ready=True, remark="Redis is away; meanwhile the spool keeps webhooks")

    answer = await ops.get("/readyz")

    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "reason": worker.found.remark}


async def test_readiness_that_hangs_is_not_ready(ops: httpx.AsyncClient, worker: Worker) -> None:
    worker.hangs = True

    answer = await ops.get("/readyz")

    assert answer.status_code == 503
    assert answer.json() == {"status": "not ready", "reason": "no answer within 0.01 s"}


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "text/plain;version=x"])
async def test_the_plain_format_is_the_default(ops: httpx.AsyncClient, accept: str) -> None:
    answer = await ops.get("/metrics", headers={"accept": accept})

    assert answer.headers.get_list("content-type") == ["text/plain; version=0.0.4; charset=utf-8"]
    assert "chatwoot_cache_redis_up" in {
        f.name for f in text_string_to_metric_families(answer.text)
    }


async def test_prometheus_gets_openmetrics(ops: httpx.AsyncClient) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"

    answer = await ops.get("/metrics", headers={"accept": accept})

    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = parse_openmetrics(answer.text)  # type: ignore[no-untyped-call]  # theirs
    assert "chatwoot_cache_redis_up" in {family.name for family in families}


async def test_a_head_request_has_no_body(ops: httpx.AsyncClient) -> None:
    answer = await ops.head("/livez")

    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [("GET", "/", 404), ("GET", "/livez/", 404), ("POST", "/metrics", 405)],
)
async def test_an_unknown_path_or_method_lists_the_endpoints(
    ops: httpx.AsyncClient, method: str, path: str, code: int
) -> None:
    answer = await ops.request(method, path)

    assert answer.status_code == code
    assert "GET /livez" in answer.json()["error"]
