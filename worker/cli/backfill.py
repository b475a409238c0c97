"""Fill the cache with an instance's conversations from Chatwoot.

Reads conversations and messages, and puts them on the stream as events. The worker merges them like
any other event, so nothing newer is ever replaced. After an interruption, the same command
continues where it stopped. Exit code 1: Chatwoot did not return everything.
"""

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import anyio

from worker.chatwoot.account_clients import AccountClients
from worker.chatwoot.backfiller import BackfillCounts, Backfiller
from worker.chatwoot.paginator import HistoryPaginator
from worker.chatwoot.rest_client import ChatwootClient
from worker.cli.context import CommandContext, check_instance_name, describe_unknown
from worker.cli.formatting import format_count
from worker.cli.output import print_json, progress, warn
from worker.core.inbox_matching import Inbox
from worker.core.timestamps import to_us
from worker.errors import ConfigurationError, UpstreamError
from worker.settings import LoadedSettings, Settings
from worker.store.cache.first_messages import FirstMessages
from worker.store.client import Client
from worker.store.stream.backfill_checkpoint import BackfillCheckpoint, BackfillScope

_ATTEMPTS: Final = 6
_DAY_S: Final = 86_400.0


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "instance", metavar="INSTANCE", help="Evolution instance with a bound inbox"
    )
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument(
        "--days",
        type=float,
        metavar="D",
        help="messages of the last D days; the default is the time to live of a document "
        "(CACHE_REDIS_TTL). Older messages live as long as all others",
    )
    scope.add_argument(
        "--conversation", type=int, metavar="N", help="all messages of one conversation"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: Namespace, loaded: LoadedSettings) -> int:
    """Backfill, and print how much was read."""
    check_instance_name(arguments.instance)
    if arguments.days is not None and not 0 < arguments.days <= 36_500:  # noqa: PLR2004 - a century
        raise ConfigurationError("--days must be more than 0, and 36500 at most")
    try:
        counts = anyio.run(_backfill, arguments, CommandContext(loaded))
    except (UpstreamError, KeyboardInterrupt):
        warn("interrupted: run the same command again to continue")
        raise
    if arguments.json:
        print_json(counts)
    else:
        sys.stdout.writelines(f"{line}\n" for line in _format(counts, arguments.instance))
    return 0


def _format(counts: BackfillCounts, instance: str) -> list[str]:
    conversations = format_count(counts.conversations, "conversation")
    messages = format_count(counts.messages, "message")
    lines = [f"Put {messages} of {conversations} of {instance!r} on the stream."]
    if counts.gone:
        gone = format_count(counts.gone, "conversation")
        lines.append(f"Skipped {gone}, deleted in Chatwoot meanwhile.")
    if counts.lines:
        activities = format_count(counts.lines, "activity message")
        lines.append(
            f"Skipped {activities} of Chatwoot (assigned, resolved, …): "
            "webhooks do not carry them either."
        )
    return lines


async def _backfill(arguments: Namespace, context: CommandContext) -> BackfillCounts:
    settings, instance = context.settings, arguments.instance
    async with AsyncExitStack() as stack:
        cache = await stack.enter_async_context(context.open_cache())
        inboxes = await _inboxes(context, cache, instance)
        chatwoot = _chatwoot(settings, inboxes[0].account_id)
        stack.push_async_callback(chatwoot.aclose)
        stream = await stack.enter_async_context(context.open_stream())
        checkpoint = BackfillCheckpoint(stream, settings.stream_key, instance)
        scope, reached = await checkpoint.begin(_scope(arguments, settings))
        first_messages = FirstMessages(cache, context.cache_settings)
        pages, since_us = HistoryPaginator(chatwoot, stream), to_us(scope.since_s)
        backfill = Backfiller(pages, checkpoint, first_messages, instance, since_us, reached)
        if scope.conversation is None:
            await _read_all(backfill, chatwoot, inboxes)
        elif not await backfill.read_one(scope.conversation, {i.id: i for i in inboxes}):
            await checkpoint.end()
            raise ConfigurationError(
                f"conversation {scope.conversation} is in no inbox of {instance!r}, "
                "or the user of the token cannot see it"
            )
        await checkpoint.end()
    return backfill.counts


async def _read_all(
    backfill: Backfiller, chatwoot: ChatwootClient, inboxes: Sequence[Inbox]
) -> None:
    for inbox in inboxes:
        count = (await chatwoot.conversations(inbox.id, 1)).count
        with progress(f"Inbox {inbox.key}, conversations", count or 0) as advance:
            backfill.on_progress = partial(advance, 1)
            await backfill.read_inbox(inbox)


def _scope(arguments: Namespace, settings: Settings) -> BackfillScope:
    if arguments.conversation is not None:
        return BackfillScope(None, arguments.conversation, since_s=0.0)
    days = arguments.days or settings.cache_redis_ttl / _DAY_S
    return BackfillScope(days, None, since_s=time.time() - days * _DAY_S)


async def _inboxes(context: CommandContext, cache: Client, instance: str) -> list[Inbox]:
    """Return the inboxes that are bound to an instance, all of one account."""
    bindings = await context.bindings(cache)
    if unknown := describe_unknown(instance, bindings):
        raise ConfigurationError(f"{unknown}; `chatwoot-cache connect` binds inboxes")
    inboxes = map(Inbox.from_key, bindings.inboxes_of(instance))
    return sorted(inboxes, key=lambda inbox: (inbox.account_id, inbox.id))


def _chatwoot(settings: Settings, account_id: int) -> ChatwootClient:
    accounts = AccountClients(settings, timeout_s=settings.chatwoot_timeout_s, attempts=_ATTEMPTS)
    chatwoot = accounts.of(account_id)
    if chatwoot is None:
        raise ConfigurationError(
            f"the address of Chatwoot or a token for account {account_id} is not known: run "
            "`chatwoot-cache connect`, or set CHATWOOT_CACHE_CHATWOOT_URL and "
            "CHATWOOT_CACHE_CHATWOOT_TOKEN"
        )
    return chatwoot
