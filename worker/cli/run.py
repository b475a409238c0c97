"""`run`: the worker itself, until it is told to stop."""

import argparse
import os
import shlex
import sys
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
from worker.settings import LoadedSettings, RedisUri

log = structlog.get_logger()

_SAMPLES = Path(__file__).parents[2] / "tests" / "payloads" / "evolution"


def add(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "run",
        help="run the worker until it is told to stop",
        description="Read events from the stream and keep the cache, until SIGTERM or Ctrl-C.",
    )
    parser.add_argument(
        "--no-consume",
        dest="consume",
        action="store_false",
        help="only serve reads: join no consumer group, take no webhooks",
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace, loaded: LoadedSettings) -> int:
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
            lambda started: _greet(loaded, started),
            consume=arguments.consume,
        )

    try:
        anyio.run(main, backend_options={"use_uvloop": _has_uvloop()})
    except Exception as error:  # noqa: BLE001 - the last to catch anything
        cause = _innermost(error)
        if isinstance(cause, WorkerError):
            raise cause from None
        log.critical("worker.crashed", error=logs.error_site(cause))
        return 1
    return 0


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401, PLC0415 - asked for, not used here
    except ImportError:
        return False
    return True


def _innermost(error: Exception) -> Exception:
    """Return the failure that a task group's wrapping began with."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _greet(loaded: LoadedSettings, started: Endpoints) -> None:
    uri = loaded.settings.uris[0]
    log.info(
        "worker.started",
        version=__version__,
        webhook=started.webhook,
        reads=started.reads,
        ops=started.ops,
    )
    if not (sys.stdout.isatty() or _is_own(uri)):
        return

    table = Table.grid(padding=(0, 2))
    table.add_row("Webhook", f"POST {started.webhook}" if started.webhook else "off")
    table.add_row("Reads", f"GET  {started.reads}…" if started.reads else "off: no key is set")
    table.add_row("Metrics", f"{started.ops}/metrics   (probes: /livez, /readyz)")
    table.add_row("Redis", str(uri))
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\nchatwoot-cache {__version__} is running.\n")
    console.print(table)
    if _is_own(uri) and _SAMPLES.is_dir():
        _suggest(console, str(uri))
    console.print("\nCtrl-C stops it.\n")


def _is_own(uri: RedisUri) -> bool:
    return str(uri).startswith(embedded_server.SCHEME)


def _suggest(console: Console, uri: str) -> None:
    here = f"CACHE_REDIS_URI={shlex.quote(uri)} {shlex.quote(_program())}"
    console.print("\nTry it, in a second terminal: publish the sample events, then read them.\n")
    console.print(f"  {here} publish {shlex.quote(_relative(_SAMPLES))}/*.json", style="bold")
    console.print(f"  {here} get loja-aurora messages 1584", style="bold")


def _program() -> str:
    return _relative(Path(sys.argv[0]))


def _relative(path: Path) -> str:
    """Return a path as it would be typed here."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - links stay as they are
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
