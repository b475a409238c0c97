"""Find Evolution's inboxes in Chatwoot, bind them, and set up the webhook.

Asks Evolution for its instances and Chatwoot for its inboxes, binds those that certainly belong
together, and creates or repairs one webhook in each account. What is not certain is reported and
left unchanged. A second run changes nothing more. Exit code 1: something could not be done; the
table shows what and why.
"""

import getpass
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
from pydantic import SecretStr

from worker.chatwoot.setup.connector import ConnectReport, connect
from worker.chatwoot.setup.discovery import ConnectRequest
from worker.cli.context import CommandContext
from worker.cli.output import print_json, print_rows, warn
from worker.core.chatwoot_event import API_CHANNEL
from worker.errors import ConfigurationError
from worker.settings import LoadedSettings, Settings, check_address, connect_file

WEBHOOK_URL: Final = "http://chatwoot-cache.internal:9850/chatwoot/webhook"
"""Chatwoot's form requires a dot in the host. In Docker, give the worker this network alias."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = (
        "With - as KEY or TOKEN the command asks for it, or reads a line of standard input: other "
        "users of this machine can see the command line."
    )
    add = parser.add_argument
    add("--evolution", metavar="URL", help="address of Evolution")
    add(
        "--apikey",
        metavar="KEY",
        help="AUTHENTICATION_API_KEY of Evolution (CHATWOOT_CACHE_EVOLUTION_APIKEY)",
    )
    add(
        "--chatwoot",
        metavar="URL",
        help="address of Chatwoot, if it differs from Evolution's, or without Evolution",
    )
    add(
        "--token",
        metavar="TOKEN",
        help="access token of a Chatwoot administrator, if Evolution's token is not one "
        "(CHATWOOT_CACHE_CHATWOOT_TOKEN)",
    )
    add("--account", type=int, metavar="N", help="only this account")
    add(
        "--bind",
        action="append",
        default=[],
        metavar="INBOX=INSTANCE",
        help="bind an inbox, given as account/id, id or name; may be repeated",
    )
    add(
        "--webhook-url",
        default=WEBHOOK_URL,
        metavar="URL",
        help=f"where Chatwoot reaches the worker (default {WEBHOOK_URL})",
    )
    add("--dry-run", action="store_true", help="show what would be done, and change nothing")
    add("--json", action="store_true", help="print the result as JSON")


def run(arguments: Namespace, loaded: LoadedSettings) -> int:
    """Connect and print the result; 1 when something could not be done."""
    request = _request(arguments, loaded.settings)
    report = anyio.run(_connect, request, CommandContext(loaded))
    if arguments.json:
        print_json(
            {
                "chatwoot": report.chatwoot_url,
                "inboxes": _inboxes(report),
                "webhooks": _webhooks(report),
                "written": report.files,
                "problems": report.problems,
            }
        )
    else:
        _print(report, request, by_name=loaded.settings.instance_from_inbox_name)
    return 1 if _is_incomplete(report) else 0


def _request(arguments: Namespace, settings: Settings) -> ConnectRequest:
    evolution = arguments.evolution or (None if arguments.chatwoot else settings.evolution_url)
    chatwoot = arguments.chatwoot or settings.chatwoot_url
    if evolution is None and not (chatwoot and arguments.account):
        raise ConfigurationError(
            "an address is missing: use --evolution URL --apikey KEY, "
            "or Chatwoot alone: --chatwoot URL --token TOKEN --account N"
        )
    apikey = _secret(
        "--apikey", arguments.apikey, settings.evolution_apikey, needed=bool(evolution)
    )
    token = _secret("--token", arguments.token, settings.chatwoot_token, needed=evolution is None)
    return ConnectRequest(
        evolution_url=_address("--evolution", evolution),
        apikey=apikey,
        # An address stored by an earlier run does not overrule what Evolution says now.
        chatwoot_url=_address("--chatwoot", arguments.chatwoot if evolution else chatwoot),
        token=token,
        account_id=arguments.account,
        timeout_s=settings.chatwoot_timeout_s,
        webhook_url=_webhook_url(arguments.webhook_url),
        binds=arguments.bind,
        dry_run=arguments.dry_run,
    )


def _address(option: str, url: str | None) -> str | None:
    try:
        return None if url is None else check_address(url)
    except ValueError as error:
        raise ConfigurationError(f"{option} {error}") from None


def _webhook_url(stated: str) -> str:
    """Return the URL of the webhook; a bare address gets the worker's path."""
    url = _address("--webhook-url", stated) or WEBHOOK_URL
    return url if urlsplit(url).path else f"{url}{urlsplit(WEBHOOK_URL).path}"


def _secret(
    option: str, stated: str | None, setting: SecretStr | None, *, needed: bool
) -> str | None:
    """Return a secret from the command line, the settings, the terminal or standard input."""
    if stated not in (None, "-"):
        return stated
    if stated is None and setting is not None:
        return setting.get_secret_value()
    if stated is None and not (needed and sys.stdin.isatty()):
        if needed:
            raise ConfigurationError(
                f"{option} is missing: add it, or add {option} - and enter it when asked"
            )
        return None
    if sys.stdin.isatty():
        return getpass.getpass(f"{option.removeprefix('--')}: ")
    return sys.stdin.readline().rstrip("\r\n")


async def _connect(request: ConnectRequest, context: CommandContext) -> ConnectReport:
    async with context.open_cache() as cache:
        table, path = context.binding_table(cache), connect_file(os.environ, Path())
        return await connect(request, table, context.loaded, path)


def _is_incomplete(report: ConnectReport) -> bool:
    return (
        bool(report.problems)
        or any(not row.is_normal for row in report.rows)
        or any(webhook.state == "none" for webhook in report.webhooks)
        or all(row.state == "not bound" for row in report.rows)
    )


def _inboxes(report: ConnectReport) -> list[dict[str, Any]]:
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


def _webhooks(report: ConnectReport) -> list[dict[str, Any]]:
    return [
        {"account": webhook.account_id, "webhook": webhook.state, "reason": webhook.reason}
        for webhook in report.webhooks
    ]


def _print(report: ConnectReport, request: ConnectRequest, *, by_name: bool) -> None:
    print_rows(_inboxes(report), ("inbox", "name", "instance", "binding", "reason"))
    sys.stdout.write("\n")
    print_rows(_webhooks(report), ("account", "webhook", "reason"))
    lines = ["", *_next_steps(report, request), *(_unbound(report) if by_name else ())]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    for problem in report.problems:
        warn(problem)


def _next_steps(report: ConnectReport, request: ConnectRequest) -> Iterator[str]:
    if request.dry_run:
        yield "Nothing was changed (--dry-run)."
        return
    files = ", ".join(report.files)
    if files:
        yield f"Wrote {files}, which holds secrets: restart the worker, so that it reads the file."
    if any(webhook.state != "none" for webhook in report.webhooks):
        yield f"Chatwoot sends to {request.webhook_url.partition('?')[0]}: it must reach the worker"
        yield "by that name. Chatwoot 4.14 and newer send to a private address only with"
        yield "SAFE_FETCH_ALLOW_PRIVATE_NETWORK=true on its web and sidekiq."


def _unbound(report: ConnectReport) -> Iterator[str]:
    """Yield lines about the inboxes that the worker will bind by their name."""
    keys = dict.fromkeys(
        row.inbox.key
        for row in report.rows
        if row.inbox and row.state == "not bound" and row.inbox.channel == API_CHANNEL
    )
    if keys:
        yield f"Not bound: {', '.join(keys)}. The worker binds such an inbox by its name on its"
        yield "first event, unless CHATWOOT_CACHE_INSTANCE_FROM_INBOX_NAME=false is set."
