"""`backfill`: put what Chatwoot knows of an instance on the stream, as events."""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import anyio
import msgspec

from worker.chatwoot.account_clients import AccountClients
from worker.chatwoot.backfiller import BackfillCounts, Backfiller
from worker.chatwoot.paginator import HistoryPaginator
from worker.chatwoot.rest_client import ChatwootClient
from worker.cli.progress import progress
from worker.core.binding_rules import Bindings
from worker.core.inbox_matching import Inbox
from worker.core.timestamps import to_us
from worker.errors import ConfigurationError, UpstreamError
from worker.settings import LoadedSettings, Settings
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_writer import CacheSettings
from worker.store.cache.first_messages import FirstMessages
from worker.store.client import open_client
from worker.store.stream.backfill_checkpoint import BackfillCheckpoint, BackfillScope

_ATTEMPTS: Final = 6
_DAY_S: Final = 86_400.0


def add(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "backfill",
        help="fill the cache with what Chatwoot knows of an instance",
        description="Read an instance's conversations and messages from Chatwoot, and put them on "
        "the stream as events: the worker merges them as any others, so nothing newer is ever "
        "replaced. What was interrupted goes on where it stopped with the same command. "
        "Exit code 1: Chatwoot did not give everything.",
    )
    parser.add_argument("instance", metavar="INSTANCE", help="Evolution instance, bound already")
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument(
        "--days",
        type=float,
        metavar="D",
        help="messages of the last D days; as many as a document lives (CACHE_REDIS_TTL) unless "
        "stated. Older ones are read as well if asked for, and live as long as all others",
    )
    scope.add_argument(
        "--conversation", type=int, metavar="N", help="one conversation, from its beginning"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace, loaded: LoadedSettings) -> int:
    """Backfill and say how much that was."""
    if arguments.days is not None and not 0 < arguments.days <= 36_500:  # noqa: PLR2004 - a century
        raise ConfigurationError("--days must be more than 0, and 36500 at most")
    try:
        tally = anyio.run(_backfill, arguments, loaded.settings)
    except (UpstreamError, KeyboardInterrupt):
        sys.stderr.write("chatwoot-cache: interrupted: the same command again goes on from here\n")
        raise
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(tally).decode() + "\n")
    else:
        sys.stdout.write(_said(tally, arguments.instance))
    return 0


def _said(tally: BackfillCounts, instance: str) -> str:
    gone = f" {tally.gone} conversations were gone meanwhile." if tally.gone else ""
    return (
        f"Put {tally.messages} messages of {tally.conversations} conversations of "
        f"{instance!r} on the stream.{gone}\n"
        f"Left out {tally.lines} lines of Chatwoot's own (assigned, resolved, …), which "
        "webhooks do not carry either.\n"
    )


async def _backfill(arguments: argparse.Namespace, settings: Settings) -> BackfillCounts:
    inboxes = await _inboxes(arguments.instance, settings)
    scope = _scope(arguments, settings)
    async with AsyncExitStack() as stack:
        chatwoot = _chatwoot(settings, inboxes[0].account_id)
        stack.push_async_callback(chatwoot.aclose)
        stream = await stack.enter_async_context(
            open_client(settings.stream_uri.get_secret_value())
        )
        headway = BackfillCheckpoint(stream, settings.stream_key, arguments.instance)
        scope, reached = await headway.begin(scope)
        cache = await stack.enter_async_context(open_client(settings.cache_uri.get_secret_value()))
        starts = FirstMessages(cache, _cache(settings))
        pages, since_us = HistoryPaginator(chatwoot, stream), to_us(scope.since_s)
        backfill = Backfiller(pages, headway, starts, arguments.instance, since_us, reached)
        if scope.conversation is None:
            await _read_all(backfill, chatwoot, inboxes)
        elif not await backfill.read_one(scope.conversation, {i.id: i for i in inboxes}):
            await headway.end()
            raise ConfigurationError(
                f"conversation {scope.conversation} is in no inbox of {arguments.instance!r}, "
                "or the token's user does not see it"
            )
        await headway.end()
    return backfill.counts


async def _read_all(
    backfill: Backfiller, chatwoot: ChatwootClient, inboxes: Sequence[Inbox]
) -> None:
    for inbox in inboxes:
        count = (await chatwoot.conversations(inbox.id, 1)).count
        with progress(f"Inbox {inbox.key}, conversations", count or 0) as advance:
            backfill.on_progress = partial(advance, 1)
            await backfill.read_inbox(inbox)


def _scope(arguments: argparse.Namespace, settings: Settings) -> BackfillScope:
    if arguments.conversation is not None:
        return BackfillScope(None, arguments.conversation, since_s=0.0)
    days = arguments.days or settings.cache_redis_ttl / _DAY_S
    return BackfillScope(days, None, since_s=time.time() - days * _DAY_S)


async def _inboxes(instance: str, settings: Settings) -> list[Inbox]:
    """Return the inboxes that are bound to an instance, all of one account."""
    async with open_client(settings.cache_uri.get_secret_value()) as client:
        stored = await BindingTable(client, _cache(settings)).peek()
    bindings = stored.overruled_by(Bindings.of_operator(settings.instances))
    keys = bindings.inboxes_of(instance)
    if not keys:
        raise ConfigurationError(
            f"no inbox is bound to instance {instance!r}: see `chatwoot-cache bindings list`, "
            "or let `chatwoot-cache connect` bind it"
        )
    return sorted(map(Inbox.from_key, keys), key=lambda inbox: (inbox.account_id, inbox.id))


def _cache(settings: Settings) -> CacheSettings:
    return CacheSettings(settings.cache_redis_prefix_key, settings.cache_redis_ttl)


def _chatwoot(settings: Settings, account_id: int) -> ChatwootClient:
    accounts = AccountClients(settings, timeout_s=settings.chatwoot_timeout_s, attempts=_ATTEMPTS)
    chatwoot = accounts.of(account_id)
    if chatwoot is None:
        raise ConfigurationError(
            f"Chatwoot's address or a token for account {account_id} is not known: let "
            "`chatwoot-cache connect` find them, or set CHATWOOT_CACHE_CHATWOOT_URL and "
            "CHATWOOT_CACHE_CHATWOOT_TOKEN"
        )
    return chatwoot
