"""What can be told without asking a server: settings, webhook and spool."""

import shutil
import tempfile
from pathlib import Path
from typing import Final

from worker.app import webhook_policy
from worker.cli.checks.check_context import CheckContext, in_container
from worker.cli.checks.check_result import CheckResult, ok, problem, warning
from worker.cli.formatting import format_bytes
from worker.ingest.spool.spool_database import NAME, read_stats
from worker.ingest.webhook_auth import is_loopback

_DIR: Final = "CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR"


async def settings(subject: CheckContext) -> CheckResult:
    """Names that nobody knows, settings that contradict each other."""
    warnings = subject.loaded.warnings
    if not warnings:
        return ok("every setting is known and used")
    return warning("; ".join(warnings), "`chatwoot-cache config` shows where each comes from")


async def webhook(subject: CheckContext) -> CheckResult:
    """Whether Chatwoot can reach the webhook, and whether it takes what comes."""
    of = subject.settings
    if not of.webhook_enabled:
        return ok("off: events come from producers of your own")
    policy = webhook_policy(of)
    if policy.closed:
        return problem(f"every webhook is refused: {policy.closed}", "set one of them")
    place = f"{of.http_host} port {of.http_port}"
    if is_loopback(of.http_host) and in_container(subject.environ):
        return warning(
            f"it listens on {place}, which only this container can reach",
            "set CHATWOOT_CACHE_HTTP_HOST=0.0.0.0, and a secret or a token",
        )
    guard = (
        "signed, or with the token" if policy.requires_credentials else "open to every program here"
    )
    return ok(f"on {place}, {guard}")


async def spool(subject: CheckContext) -> CheckResult:
    """Whether webhooks have somewhere to go while Redis is away."""
    directory = subject.settings.webhook_spool_dir
    if directory is None:
        return warning(
            "while Redis is away, webhooks are refused, and Chatwoot sends each only once",
            f"set {_DIR} to a directory that outlives the container",
        )
    if (outage := _unwritable(directory)) is not None:
        return problem(f"{directory} cannot be written: {outage}", f"see {_DIR}")
    return _judge(directory, subject.settings.webhook_spool_max_bytes)


def _judge(directory: Path, max_bytes: int) -> CheckResult:
    waiting = read_stats(directory)
    if waiting is None and (directory / NAME).exists():
        return problem(
            f"{directory / NAME} is not a spool, or damaged",
            "it may hold webhooks that nobody else has: move it away",
        )
    if waiting and waiting.is_full(max_bytes):
        return problem(
            f"{directory} is full, with {waiting.entries} webhooks that wait for Redis: "
            "others are refused, and Chatwoot sends each only once",
            "bring Redis back, or raise CHATWOOT_CACHE_WEBHOOK_SPOOL_MAX_BYTES "
            f"({format_bytes(max_bytes)}) and restart the worker",
        )
    entries, used = (waiting.entries, waiting.used_bytes) if waiting else (0, 0)
    free = shutil.disk_usage(_existing(directory)).free
    if free + used < max_bytes:
        return warning(
            f"{directory} has {format_bytes(free)} free, less than the spool may take",
            "make room, or lower CHATWOOT_CACHE_WEBHOOK_SPOOL_MAX_BYTES"
            f" ({format_bytes(max_bytes)})",
        )
    if entries:
        return warning(
            f"{entries} webhooks wait in {directory} for Redis",
            "a running worker brings them to the stream once Redis takes them; see its log",
        )
    return ok(f"{directory}, empty, may take {format_bytes(max_bytes)}")


def _unwritable(directory: Path) -> str | None:
    try:
        with tempfile.TemporaryFile(dir=_existing(directory)):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _existing(directory: Path) -> Path:
    """The directory, or the nearest one above that there is: the worker makes the rest."""
    return next(path for path in (directory, *directory.parents) if path.exists())
