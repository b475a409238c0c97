"""`backfill`: read an instance's history from Chatwoot, and add it to the stream as events."""

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
        help="fill the cache with an instance's history from Chatwoot",
        description="Read an instance's conversations and messages from Chatwoot, and add them to "
        "the stream as events. The worker merges them like any other events, so newer state is "
        "never replaced. The same command resumes an interrupted backfill. "
        "Exit code 1: Chatwoot did not return everything.",
    )
    parser.add_argument("instance", metavar="INSTANCE", help="a bound Evolution instance")
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument(
        "--days",
        type=float,
        metavar="D",
        help="messages of the last D days (default: as many as CACHE_REDIS_TTL). "
        "Older messages can be read too; they expire like all others",
    )
    scope.add_argument(
        "--conversation", type=int, metavar="N", help="one conversation, from its start"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace, loaded: LoadedSettings) -> int:
    """Run the backfill and print its counts."""
    if arguments.days is not None and not 0 < arguments.days <= 36_500:  # noqa: PLR2004 - a century
        raise ConfigurationError("--days must be more than 0, and 36500 at most")
    try:
        counts = anyio.run(_backfill, arguments, loaded.settings)
    except (UpstreamError, KeyboardInterrupt):
        sys.stderr.write("chatwoot-cache: interrupted: run the same command again to resume\n")
        raise
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(counts).decode() + "\n")
    else:
        sys.stdout.write(_format_counts(counts, arguments.instance))
    return 0


def _format_counts(counts: BackfillCounts, instance: str) -> str:
    gone = f" {counts.gone} conversations were deleted meanwhile." if counts.gone else ""
    return (
        f"Added {counts.messages} messages of {counts.conversations} conversations of "
        f"{instance!r} to the stream.{gone}\n"
        f"Left out {counts.lines} activity messages (assigned, resolved, …), which webhooks "
        "do not carry either.\n"
    )


async def _backfill(arguments: argparse.Namespace, settings: Settings) -> BackfillCounts:
    inboxes = await _inboxes(arguments.instance, settings)
    scope = _scope(arguments, settings)
    async with AsyncExitStack() as stack:
        client = _chatwoot_client(settings, inboxes[0].account_id)
        stack.push_async_callback(client.aclose)
        stream_uri, cache_uri = settings.stream_uri, settings.cache_uri
        stream = await stack.enter_async_context(open_client(stream_uri.get_secret_value()))
        checkpoint = BackfillCheckpoint(stream, settings.stream_key, arguments.instance)
        scope, reached = await checkpoint.begin(scope)
        cache = await stack.enter_async_context(open_client(cache_uri.get_secret_value()))
        backfill = Backfiller(
            HistoryPaginator(client, stream),
            checkpoint,
            FirstMessages(cache, _cache(settings)),
            arguments.instance,
            to_us(scope.since_s),
            reached,
        )
        if scope.conversation is None:
            await _read_all(backfill, client, inboxes)
        elif not await backfill.read_one(scope.conversation, {i.id: i for i in inboxes}):
            await checkpoint.end()
            raise ConfigurationError(
                f"conversation {scope.conversation} is in no inbox of {arguments.instance!r}, "
                "or the token's user does not see it"
            )
        await checkpoint.end()
    return backfill.counts


async def _read_all(backfill: Backfiller, client: ChatwootClient, inboxes: Sequence[Inbox]) -> None:
    for inbox in inboxes:
        count = (await client.conversations(inbox.id, 1)).count
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
    inboxes = [Inbox.from_key(key) for key in bindings.inboxes_of(instance)]
    if not inboxes:
        raise ConfigurationError(
            f"no inbox is bound to instance {instance!r}: see `chatwoot-cache bindings list`, "
            "or let `chatwoot-cache connect` bind it"
        )
    return sorted(inboxes, key=lambda inbox: (inbox.account_id, inbox.id))


def _cache(settings: Settings) -> CacheSettings:
    return CacheSettings(settings.cache_redis_prefix_key, settings.cache_redis_ttl)


def _chatwoot_client(settings: Settings, account_id: int) -> ChatwootClient:
    clients = AccountClients(settings, timeout_s=settings.chatwoot_timeout_s, attempts=_ATTEMPTS)
    client = clients.of(account_id)
    if client is None:
        raise ConfigurationError(
            f"Chatwoot's address or a token for account {account_id} is not known: let "
            "`chatwoot-cache connect` find them, or set CHATWOOT_CACHE_CHATWOOT_URL and "
            "CHATWOOT_CACHE_CHATWOOT_TOKEN"
        )
    return client
