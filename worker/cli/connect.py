"""`connect`: find Evolution's inboxes in Chatwoot, bind them, and set the webhook up."""

import argparse
import getpass
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import msgspec
from pydantic import SecretStr

from worker.chatwoot.setup.connector import ConnectReport, connect
from worker.chatwoot.setup.discovery import ConnectRequest
from worker.chatwoot.setup.inbox_binding import BindingRow
from worker.chatwoot.setup.webhook_setup import WebhookStatus
from worker.cli import table
from worker.core.chatwoot_event import API_CHANNEL
from worker.errors import ConfigurationError
from worker.settings import LoadedSettings, Settings, check_address, connect_file
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_writer import CacheSettings
from worker.store.client import open_client

WEBHOOK_URL: Final = "http://chatwoot-cache.internal:9850/chatwoot/webhook"
"""With a dot in it, which Chatwoot's own form asks for: the alias to give the worker in Docker."""


def add(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "connect",
        help="find Evolution's inboxes in Chatwoot, bind them, and set the webhook up",
        description="Ask Evolution for its instances and Chatwoot for its inboxes, bind those that "
        "belong together for certain, and see to one webhook in each account. What cannot be told "
        "for certain is reported and left alone. A second run changes nothing more. "
        "Exit code 1: something could not be done; the table says what and why.",
        epilog="A KEY or TOKEN of - is asked for, or read from a line of standard input: the "
        "command line can be seen by every user of this machine.",
    )
    add_argument = parser.add_argument
    add_argument("--evolution", metavar="URL", help="Evolution's address")
    add_argument(
        "--apikey",
        metavar="KEY",
        help="its AUTHENTICATION_API_KEY (CHATWOOT_CACHE_EVOLUTION_APIKEY)",
    )
    add_argument(
        "--chatwoot",
        metavar="URL",
        help="Chatwoot's address, where it is not the one that Evolution has, or without Evolution",
    )
    add_argument(
        "--token",
        metavar="TOKEN",
        help="access token of a Chatwoot administrator, where Evolution's is not one's "
        "(CHATWOOT_CACHE_CHATWOOT_TOKEN)",
    )
    add_argument("--account", type=int, metavar="N", help="this account only")
    add_argument(
        "--bind",
        action="append",
        default=[],
        metavar="INBOX=INSTANCE",
        help="state an instance: INBOX is account/id, id or name; may be repeated",
    )
    add_argument(
        "--webhook-url",
        default=WEBHOOK_URL,
        metavar="URL",
        help=f"where Chatwoot reaches the worker ({WEBHOOK_URL})",
    )
    add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    add_argument("--json", action="store_true", help="print JSON, for another program")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace, loaded: LoadedSettings) -> int:
    """Connect and print what became of it; 1 when something could not be done."""
    asked = _asked(arguments, loaded.settings)
    report = anyio.run(_connect, asked, loaded)
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(_as_json(report)).decode() + "\n")
    else:
        _print(report, asked, by_name=loaded.settings.instance_from_inbox_name)
    return 1 if _is_wrong(report) else 0


def _asked(arguments: argparse.Namespace, settings: Settings) -> ConnectRequest:
    evolution = arguments.evolution or (None if arguments.chatwoot else settings.evolution_url)
    chatwoot = arguments.chatwoot or settings.chatwoot_url
    if evolution is None and not (chatwoot and arguments.account):
        raise ConfigurationError(
            "say whom to ask: --evolution URL --apikey KEY, "
            "or Chatwoot alone: --chatwoot URL --token TOKEN --account N"
        )
    apikey = _secret(
        "--apikey", arguments.apikey, settings.evolution_apikey, needed=bool(evolution)
    )
    token = _secret("--token", arguments.token, settings.chatwoot_token, needed=evolution is None)
    return ConnectRequest(
        webhook_url=_webhook_url(arguments.webhook_url),
        evolution_url=_address("--evolution", evolution),
        apikey=apikey,
        # Kept by an earlier run, it does not outrank what Evolution says now.
        chatwoot_url=_address("--chatwoot", arguments.chatwoot if evolution else chatwoot),
        token=token,
        account_id=arguments.account,
        timeout_s=settings.chatwoot_timeout_s,
        binds=arguments.bind,
        dry_run=arguments.dry_run,
    )


def _address(option: str, url: str | None) -> str | None:
    try:
        return None if url is None else check_address(url)
    except ValueError as error:
        raise ConfigurationError(f"{option} {error}") from None


def _webhook_url(stated: str) -> str:
    """Return the webhook's URL; of a bare address, the path is known."""
    url = _address("--webhook-url", stated) or WEBHOOK_URL
    return url if urlsplit(url).path else f"{url}{urlsplit(WEBHOOK_URL).path}"


def _secret(option: str, given: str | None, held: SecretStr | None, *, needed: bool) -> str | None:
    """Return a secret from the command line, the settings, the terminal or standard input."""
    if given not in (None, "-"):
        return given
    if given is None and held is not None:
        return held.get_secret_value()
    if given is None and not (needed and sys.stdin.isatty()):
        if needed:
            raise ConfigurationError(f"{option} is missing: state it, or {option} - and type it in")
        return None
    if sys.stdin.isatty():
        return getpass.getpass(f"{option.removeprefix('--')}: ")
    return sys.stdin.readline().rstrip("\r\n")


async def _connect(asked: ConnectRequest, loaded: LoadedSettings) -> ConnectReport:
    settings = loaded.settings
    of = CacheSettings(settings.cache_redis_prefix_key, settings.cache_redis_ttl)
    async with open_client(settings.cache_uri.get_secret_value()) as client:
        path = connect_file(os.environ, Path())
        return await connect(asked, BindingTable(client, of), loaded, path)


def _is_wrong(report: ConnectReport) -> bool:
    amiss = any(not row.is_normal for row in report.rows)
    unsent = any(h.state == "none" for h in report.webhooks)
    bound = any(row.state != "not bound" for row in report.rows)
    return bool(report.problems) or amiss or unsent or not bound


def _row(row: BindingRow) -> dict[str, Any]:
    return {
        "inbox": row.inbox.key if row.inbox else None,
        "name": row.inbox.name if row.inbox else None,
        "instance": row.instance,
        "binding": row.state,
        "reason": row.reason,
    }


def _hook(hook: WebhookStatus) -> dict[str, Any]:
    return {"account": hook.account_id, "webhook": hook.state, "reason": hook.reason}


def _as_json(report: ConnectReport) -> dict[str, Any]:
    return {
        "chatwoot": report.chatwoot_url,
        "inboxes": [_row(row) for row in report.rows],
        "webhooks": [_hook(hook) for hook in report.webhooks],
        "written": report.files,
        "problems": report.problems,
    }


def _print(report: ConnectReport, asked: ConnectRequest, *, by_name: bool) -> None:
    table.print_rows(
        [_row(row) for row in report.rows],
        ("inbox", "name", "instance", "binding", "reason"),
        as_json=False,
    )
    sys.stdout.write("\n")
    table.print_rows(
        [_hook(hook) for hook in report.webhooks], ("account", "webhook", "reason"), as_json=False
    )
    lines = ["", *_closing(report, asked), *(_left_to_names(report) if by_name else ())]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    for problem in report.problems:
        sys.stderr.write(f"chatwoot-cache: {table.printable(problem)}\n")


def _closing(report: ConnectReport, asked: ConnectRequest) -> Iterator[str]:
    if asked.dry_run:
        yield "Nothing was changed (--dry-run)."
        return
    files = ", ".join(report.files)
    if files:
        yield f"Wrote {files}: start the worker anew, it reads that once. Keep it to yourself."
    if any(hook.state != "none" for hook in report.webhooks):
        yield f"Chatwoot sends to {asked.webhook_url.partition('?')[0]}: it must reach the worker"
        yield "by that name. Chatwoot 4.14 and newer send to a private address only with"
        yield "SAFE_FETCH_ALLOW_PRIVATE_NETWORK=true on its web and sidekiq."


def _left_to_names(report: ConnectReport) -> Iterator[str]:
    """Say which inboxes the worker itself will bind, by the only thing it knows of them."""
    left = dict.fromkeys(
        row.inbox.key
        for row in report.rows
        if row.inbox and row.state == "not bound" and row.inbox.channel == API_CHANNEL
    )
    if left:
        yield f"Not bound: {', '.join(left)}. The worker binds such an inbox by its own name when"
        yield "an event of it comes, unless CHATWOOT_CACHE_INSTANCE_FROM_INBOX_NAME=false is set."
