"""Checks that need no server: settings, webhook and spool."""

import shutil
import tempfile
from pathlib import Path
from typing import Final

from worker.app import webhook_policy
from worker.cli.checks.check_result import CheckResult, ok, problem, warning
from worker.cli.context import CheckContext, is_in_container
from worker.cli.formatting import format_bytes, format_count
from worker.ingest.spool.spool_database import NAME, read_stats
from worker.ingest.webhook_auth import is_loopback

_DIR: Final = "CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR"
_MAX_BYTES: Final = "CHATWOOT_CACHE_WEBHOOK_SPOOL_MAX_BYTES"


async def settings(context: CheckContext) -> CheckResult:
    """Whether settings are unknown or contradict each other."""
    warnings = context.loaded.warnings
    if not warnings:
        return ok("every setting is known and used")
    return warning("; ".join(warnings), "`chatwoot-cache config` shows where each comes from")


async def webhook(context: CheckContext) -> CheckResult:
    """Whether Chatwoot can reach the webhook, and whether the webhook accepts events."""
    stated = context.settings
    if not stated.webhook_enabled:
        return ok("off: other programs put events on the stream")
    policy = webhook_policy(stated)
    if policy.closed:
        return problem(f"every webhook is refused: {policy.closed}", "set one of them")
    address = f"{stated.http_host} port {stated.http_port}"
    if is_loopback(stated.http_host) and is_in_container():
        return warning(
            f"it listens on {address}, which only this container can reach",
            "set CHATWOOT_CACHE_HTTP_HOST=0.0.0.0, and a secret or a token",
        )
    access = (
        "with a signature or the token"
        if policy.requires_credentials
        else "open to programs of this host"
    )
    return ok(f"on {address}, {access}")


async def spool(context: CheckContext) -> CheckResult:
    """Whether webhooks are stored while Redis is unavailable."""
    directory = context.settings.webhook_spool_dir
    if directory is None:
        return warning(
            "while Redis is unavailable, webhooks are refused, and Chatwoot sends each only once",
            f"set {_DIR} to a directory that outlives the container",
        )
    try:
        with tempfile.TemporaryFile(dir=_existing(directory)):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        return problem(f"{directory} cannot be written: {reason}", f"see {_DIR}")
    return _check_spool(directory, context.settings.webhook_spool_max_bytes)


def _check_spool(directory: Path, max_bytes: int) -> CheckResult:
    stats = read_stats(directory)
    if stats is None and (directory / NAME).exists():
        return problem(
            f"{directory / NAME} is not a spool, or damaged",
            "it may hold webhooks that exist nowhere else: move it away",
        )
    waiting = format_count(stats.entries if stats else 0, "webhook")
    if stats and stats.is_full(max_bytes):
        return problem(
            f"{directory} is full, with {waiting} waiting for Redis: "
            "others are refused, and Chatwoot sends each only once",
            f"make Redis available, or raise {_MAX_BYTES} ({format_bytes(max_bytes)}) and restart "
            "the worker",
        )
    free = shutil.disk_usage(_existing(directory)).free
    if free + (stats.used_bytes if stats else 0) < max_bytes:
        return warning(
            f"{directory} has {format_bytes(free)} free, less than the spool may take",
            f"free some space, or lower {_MAX_BYTES} ({format_bytes(max_bytes)})",
        )
    if stats and stats.entries:
        return warning(
            f"{waiting} in {directory} waiting for Redis",
            "a running worker puts them on the stream once Redis is available; see its log",
        )
    return ok(f"{directory}, empty, may take {format_bytes(max_bytes)}")


def _existing(directory: Path) -> Path:
    """Return the directory, or its nearest parent that exists: the worker creates the rest."""
    return next(path for path in (directory, *directory.parents) if path.exists())
