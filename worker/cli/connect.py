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
from worker.cli import table
from worker.core.chatwoot_event import API_CHANNEL
from worker.errors import ConfigurationError
from worker.settings import LoadedSettings, Settings, check_address, connect_file
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_writer import CacheSettings
from worker.store.client import open_client

WEBHOOK_URL: Final = "http://chatwoot-cache.internal:9850/chatwoot/webhook"
"""The alias to give the worker in Docker; Chatwoot's own form requires a dot in the name."""


def add(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "connect",
        help="find Evolution's inboxes in Chatwoot, bind them, and set the webhook up",
        description="Ask Evolution for its instances and Chatwoot for its inboxes, bind those that "
        "match exactly, and set up one webhook in each account. Everything else is reported and "
        "left unchanged. A second run changes nothing more. "
        "Exit code 1: something could not be done; the table says what and why.",
        epilog="A KEY or TOKEN of - is prompted for, or read from a line of standard input: every "
        "user of this machine can see the command line.",
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
        help="Chatwoot's address (default: the one that Evolution has)",
    )
    add_argument(
        "--token",
        metavar="TOKEN",
        help="access token of a Chatwoot administrator, where Evolution has none "
        "(CHATWOOT_CACHE_CHATWOOT_TOKEN)",
    )
    add_argument("--account", type=int, metavar="N", help="only this account")
    add_argument(
        "--bind",
        action="append",
        default=[],
        metavar="INBOX=INSTANCE",
        help="bind INBOX (account/id, id or name) to an instance; may be repeated",
    )
    add_argument(
        "--webhook-url",
        default=WEBHOOK_URL,
        metavar="URL",
        help=f"where Chatwoot reaches the worker (default: {WEBHOOK_URL})",
    )
    add_argument(
        "--dry-run", action="store_true", help="show what would be done, and change nothing"
    )
    add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace, loaded: LoadedSettings) -> int:
    """Connect and print the report; returns 1 where something could not be done."""
    request = _request(arguments, loaded.settings)
    report = anyio.run(_connect, request, loaded)
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(_as_json(report)).decode() + "\n")
    else:
        _print(report, request, by_name=loaded.settings.instance_from_inbox_name)
    return 1 if _has_problems(report) else 0


def _request(arguments: argparse.Namespace, settings: Settings) -> ConnectRequest:
    evolution = arguments.evolution or (None if arguments.chatwoot else settings.evolution_url)
    chatwoot = arguments.chatwoot or settings.chatwoot_url
    if evolution is None and not (chatwoot and arguments.account):
        raise ConfigurationError(
            "give --evolution URL and --apikey KEY, "
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
        # A URL saved by an earlier run has no precedence over what Evolution says now.
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
    """Return the webhook's URL; an address without a path gets the default path."""
    url = _address("--webhook-url", stated) or WEBHOOK_URL
    return url if urlsplit(url).path else f"{url}{urlsplit(WEBHOOK_URL).path}"


def _secret(
    option: str, given: str | None, loaded: SecretStr | None, *, needed: bool
) -> str | None:
    """Return a secret from the command line, the settings, the terminal or standard input."""
    if given not in (None, "-"):
        return given
    if given is None and loaded is not None:
        return loaded.get_secret_value()
    if given is None and not (needed and sys.stdin.isatty()):
        if needed:
            raise ConfigurationError(
                f"{option} is missing: give it, or {option} - to be prompted for it"
            )
        return None
    if sys.stdin.isatty():
        return getpass.getpass(f"{option.removeprefix('--')}: ")
    return sys.stdin.readline().rstrip("\r\n")


async def _connect(request: ConnectRequest, loaded: LoadedSettings) -> ConnectReport:
    settings = loaded.settings
    cache_settings = CacheSettings(settings.cache_redis_prefix_key, settings.cache_redis_ttl)
    async with open_client(settings.cache_uri.get_secret_value()) as client:
        path = connect_file(os.environ, Path())
        return await connect(request, BindingTable(client, cache_settings), loaded, path)


def _has_problems(report: ConnectReport) -> bool:
    return (
        bool(report.problems)
        or any(not row.is_normal for row in report.rows)
        or any(webhook.state == "none" for webhook in report.webhooks)
        or all(row.state == "not bound" for row in report.rows)
    )


def _binding_rows(report: ConnectReport) -> list[dict[str, Any]]:
    return [
        {
            "inbox": row.inbox.key if row.inbox else None,
            "name": row.inbox.name if row.inbox else None,
            "instance": row.instance,
            "binding": row.state,
            "reason": row.reason,
        }
        for row in report.rows
    ]


def _webhook_rows(report: ConnectReport) -> list[dict[str, Any]]:
    return [
        {"account": webhook.account_id, "webhook": webhook.state, "reason": webhook.reason}
        for webhook in report.webhooks
    ]


def _as_json(report: ConnectReport) -> dict[str, Any]:
    return {
        "chatwoot": report.chatwoot_url,
        "inboxes": _binding_rows(report),
        "webhooks": _webhook_rows(report),
        "written": report.files,
        "problems": report.problems,
    }


def _print(report: ConnectReport, request: ConnectRequest, *, by_name: bool) -> None:
    binding_columns = ("inbox", "name", "instance", "binding", "reason")
    table.print_rows(_binding_rows(report), binding_columns, as_json=False)
    sys.stdout.write("\n")
    webhook_columns = ("account", "webhook", "reason")
    table.print_rows(_webhook_rows(report), webhook_columns, as_json=False)
    lines = ["", *_closing_lines(report, request)]
    if by_name:
        lines += _bound_by_name_lines(report)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    for problem in report.problems:
        sys.stderr.write(f"chatwoot-cache: {table.printable(problem)}\n")


def _closing_lines(report: ConnectReport, request: ConnectRequest) -> Iterator[str]:
    if request.dry_run:
        yield "Nothing was changed (--dry-run)."
        return
    files = ", ".join(report.files)
    if files:
        yield f"Wrote {files}: restart the worker to load it. It holds secrets: keep it private."
    if any(webhook.state != "none" for webhook in report.webhooks):
        yield f"Chatwoot sends to {request.webhook_url.partition('?')[0]}: this URL must reach the"
        yield "worker. Chatwoot 4.14 and newer send to a private address only with"
        yield "SAFE_FETCH_ALLOW_PRIVATE_NETWORK=true on its web and sidekiq."


def _bound_by_name_lines(report: ConnectReport) -> Iterator[str]:
    """Name the inboxes that the worker itself will bind by their names."""
    not_bound = dict.fromkeys(
        row.inbox.key
        for row in report.rows
        if row.inbox and row.state == "not bound" and row.inbox.channel == API_CHANNEL
    )
    if not_bound:
        yield f"Not bound: {', '.join(not_bound)}. The worker binds such an inbox by its own name"
        yield "at its next event, unless CHATWOOT_CACHE_INSTANCE_FROM_INBOX_NAME=false is set."
