"""`make soak`: post webhooks, break things, and look whether anything was lost.

Events count from their answer 200 on. While the server is away and no spool is set, webhooks are
refused with 503, which is not a loss: the sender knows.
"""

import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
from rich.console import Console

from tests.e2e.place import Place
from tests.e2e.proxy import Proxy, proxied
from tests.servers import Server, reported
from tests.soak.events import Events
from tests.soak.gauges import Gauges
from tests.soak.plan import Plan, parsed
from tests.soak.posting import Posting
from tests.soak.report import Run, table
from tests.soak.worker_pool import WorkerPool
from tests.waiting import wait_until
from worker.ingest.spool.spool_database import read_stats

_SETTLE_S: Final = 120.0
_DELAY_S: Final = 0.005
_DROPS: Final = 0.0005
_RETENTION_S: Final = 20


async def soak(plan: Plan, console: Console) -> bool:
    """Run a plan and print how it went; True when nothing was lost."""
    options = ("--appendonly", "yes", "--appendfsync", plan.fsync)
    version = reported(plan.binary)
    with (
        tempfile.TemporaryDirectory() as directory,
        Server(plan.binary, *options) as server,
    ):
        place = Place(server.uri, "soak")
        with place.redis:
            async with _way(plan, server) as uri:
                return await _run(plan, server, place, uri, Path(directory), version, console)


@asynccontextmanager
async def _way(plan: Plan, server: Server) -> AsyncIterator[str]:
    """The address that workers are given: the server's own, or a proxy's that spoils it."""
    if not plan.proxy:
        yield server.uri
        return
    async with proxied(server.port) as proxy:
        _spoil(proxy)
        yield f"redis://127.0.0.1:{proxy.port}/0"


def _spoil(proxy: Proxy) -> None:
    proxy.delay_s, proxy.drops = _DELAY_S, _DROPS


async def _run(
    plan: Plan,
    server: Server,
    place: Place,
    uri: str,
    directory: Path,
    version: str,
    console: Console,
) -> bool:
    events, gauges = Events(), Gauges()
    settings = place.settings(STREAM_RECLAIM_AFTER_S="3", STREAM_RETENTION_S=str(_RETENTION_S))
    settings["CACHE_REDIS_URI"] = uri
    spool = directory / "spool"
    if plan.spool:
        settings["CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR"] = str(spool)

    def is_settled() -> bool:
        held = read_stats(spool)
        return (held is None or held.entries == 0) and place.is_settled()

    async with WorkerPool(directory, settings) as crew:
        posting = Posting(events, crew.ports, rate=plan.rate)
        async with anyio.create_task_group() as faults:
            faults.start_soon(crew.keep_up)
            faults.start_soon(gauges.watch, crew, place)
            faults.start_soon(_show_progress, posting, plan, console)
            if plan.kill_worker_every_s:
                faults.start_soon(crew.kill_every, plan.kill_worker_every_s)
            faults.start_soon(_kill_server, server, plan)
            await posting.run(plan.seconds)
            faults.cancel_scope.cancel()
        async with anyio.create_task_group() as after:
            after.start_soon(crew.keep_up)
            started = time.monotonic()
            await wait_until(is_settled, "everything is settled", timeout_s=_SETTLE_S)
            settled_s = time.monotonic() - started
            after.cancel_scope.cancel()
        run = Run(
            plan=plan,
            server=version,
            posting=posting,
            worker_kills=crew.kills,
            gauges=gauges,
            outcome=events.judge(place),
            settled_s=settled_s,
            failures=crew.failures(),
            ended=crew.ended,
            counted_lost=crew.counted_lost(),
        )
    console.print(table(run))
    return run.is_good


async def _kill_server(server: Server, plan: Plan) -> None:
    for _ in range(plan.server_kills):
        await anyio.sleep(plan.kill_server_every_s or 0)
        with anyio.CancelScope(shield=True):
            server.kill()
            await anyio.sleep(plan.server_away_s)
            await anyio.to_thread.run_sync(server.start)


async def _show_progress(posting: Posting, plan: Plan, console: Console) -> None:
    if not console.is_terminal:
        return
    total = int(plan.rate * plan.seconds)
    with console.status("") as status:
        while True:
            answers = ", ".join(f"{n:,} {what}" for what, n in sorted(posting.answers.items()))
            status.update(f"{posting.posted:,} of {total:,} posted: {answers}")
            await anyio.sleep(0.5)


def main(arguments: list[str]) -> int:
    """Soak as the arguments say; 0 when all went well, else 1."""
    console = Console()
    good = anyio.run(soak, parsed(arguments), console, backend_options={"use_uvloop": True})
    console.print("Nothing was lost." if good else "[bold]Something went wrong.[/bold]")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
