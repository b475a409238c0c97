"""Run the worker until SIGTERM or Ctrl-C.

Reads events from the stream, keeps the cache, and serves webhooks and reads.
"""

import os
import shlex
import sys
from argparse import ArgumentParser, Namespace
from importlib.util import find_spec
from pathlib import Path

import anyio
import structlog
from rich.console import Console
from rich.table import Table

from worker import __version__, allocator, app
from worker.app import Endpoints
from worker.embedded import embedded_server
from worker.errors import WorkerError
from worker.ops import logs
from worker.settings import LoadedSettings

log = structlog.get_logger()

_SAMPLES = Path(__file__).parents[2] / "tests" / "payloads" / "evolution"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--no-consume",
        dest="consume",
        action="store_false",
        help="only serve reads: join no consumer group, take no webhooks",
    )


def run(arguments: Namespace, loaded: LoadedSettings) -> int:
    """Run the worker; 0 when it was told to stop."""
    settings = loaded.settings
    logs.configure(settings.log_level, settings.log_format)
    for warning in loaded.warnings:
        log.warning("settings.warning", warning=warning)

    allocator.tune_allocator()

    async def main() -> None:
        await app.run(
            settings,
            os.environ,
            lambda endpoints: _announce(loaded, endpoints),
            consume=arguments.consume,
        )

    try:
        anyio.run(main, backend_options={"use_uvloop": find_spec("uvloop") is not None})
    except Exception as error:  # noqa: BLE001 - the last to catch anything
        cause = _first_cause(error)
        if isinstance(cause, WorkerError):
            raise cause from None
        log.critical("worker.crashed", error=logs.error_site(cause))
        return 1
    return 0


def _first_cause(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _announce(loaded: LoadedSettings, endpoints: Endpoints) -> None:
    """Log the endpoints; also print them on a terminal, or where the server is embedded."""
    uri = str(loaded.settings.uris[0])
    log.info(
        "worker.started",
        version=__version__,
        webhook=endpoints.webhook,
        reads=endpoints.reads,
        ops=endpoints.ops,
    )
    is_embedded = uri.startswith(embedded_server.SCHEME)
    if not (sys.stdout.isatty() or is_embedded):
        return

    table = Table.grid(padding=(0, 2))
    table.add_row("Webhook", f"POST {endpoints.webhook}" if endpoints.webhook else "off")
    table.add_row("Reads", f"GET  {endpoints.reads}…" if endpoints.reads else "off: no key is set")
    table.add_row("Metrics", f"{endpoints.ops}/metrics   (probes: /livez, /readyz)")
    table.add_row("Redis", uri)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\nchatwoot-cache {__version__} is running.\n")
    console.print(table)
    if is_embedded and _SAMPLES.is_dir():
        program, samples = _relative(Path(sys.argv[0])), _relative(_SAMPLES)
        command = f"CACHE_REDIS_URI={shlex.quote(uri)} {shlex.quote(program)}"
        console.print("\nTo try it, publish the sample events in a second terminal, and read:\n")
        console.print(f"  {command} publish {shlex.quote(samples)}/*.json", style="bold")
        console.print(f"  {command} get loja-aurora messages 1584", style="bold")
    console.print("\nCtrl-C stops it.\n")


def _relative(path: Path) -> str:
    """Return a path relative to the working directory, if it is below that."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - links stay as they are
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
