"""Delete an instance, a conversation or a contact from the cache.

Deletes exactly the keys of one instance, or of one conversation or contact of it, in steps.
Bindings stay. Asks for confirmation on a terminal.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Collection

import anyio
import msgspec

from worker.cli.context import CommandContext, check_instance_name, describe_unknown
from worker.cli.formatting import format_count
from worker.cli.output import confirm, print_json, printable, progress, warn
from worker.core.contact_identifiers import lookup_identifiers
from worker.core.operations.purge_scope import PurgeScope
from worker.errors import ConfigurationError
from worker.settings import LoadedSettings
from worker.store.admin.cache_purge import WALKS, conversations_of, purge_cache
from worker.store.admin.stream_purge import StreamPurge
from worker.store.cache.keyspace import Keyspace
from worker.store.client import Client


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("instance", metavar="INSTANCE", help="Evolution instance")
    part = parser.add_mutually_exclusive_group()
    part.add_argument(
        "--conversation", type=int, metavar="N", help="only this conversation, by its display id"
    )
    part.add_argument("--contact", metavar="ID", help="only this contact, by JID or phone number")
    parser.add_argument(
        "--everywhere",
        action="store_true",
        help="also from the stream and the dead letters, for the right to erasure",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


class _Report(msgspec.Struct):
    documents: int = 0
    entries: int = 0
    letters: int = 0


def run(arguments: Namespace, loaded: LoadedSettings) -> int:
    """Delete the scope; 1 when that was not confirmed."""
    scope = _scope(arguments)
    target = "the cache, the stream and the dead letters" if arguments.everywhere else "the cache"
    if not confirm(f"Delete {_describe(arguments)} from {target}?", yes=arguments.yes):
        warn("nothing was deleted")
        return 1
    report = anyio.run(_purge, CommandContext(loaded), scope, arguments.everywhere)
    if report == _Report() and arguments.contact is not None:
        _suggest_other_form(arguments.contact)
    if arguments.json:
        print_json(report)
        return 0
    deleted = format_count(report.documents, "document")
    if arguments.everywhere:
        entries = format_count(report.entries, "entry", "entries")
        deleted += f", {entries} and {format_count(report.letters, 'dead letter')}"
    sys.stdout.write(f"Deleted {deleted}.\n")
    return 0


def _suggest_other_form(contact: str) -> None:
    """Name the other form of a Brazilian number: with or without the ninth digit."""
    for number in lookup_identifiers(contact).other_form[:1]:
        warn(
            f"nothing is stored under this number; it may be stored as {number}: "
            f"if that is the same person, purge --contact {number}"
        )


def _scope(arguments: Namespace) -> PurgeScope:
    check_instance_name(arguments.instance)
    if arguments.conversation is not None and arguments.conversation < 1:
        raise ConfigurationError("--conversation must be a display id, 1 or more")
    scope = PurgeScope.of(arguments.instance, arguments.conversation, arguments.contact)
    if arguments.contact is not None and not scope.contact:
        raise ConfigurationError("--contact must be a JID or a phone number")
    return scope


def _describe(arguments: Namespace) -> str:
    instance = f"instance {printable(arguments.instance)}"
    if arguments.conversation is not None:
        return f"conversation {arguments.conversation} of {instance}"
    if arguments.contact is not None:
        return f"contact {printable(arguments.contact)} of {instance}"
    return f"all of {instance}"


async def _purge(context: CommandContext, scope: PurgeScope, everywhere: bool) -> _Report:  # noqa: FBT001 - anyio passes by position
    report = _Report()
    async with context.open_cache() as cache:
        keyspace = Keyspace(cache, context.settings.cache_redis_prefix_key)
        if everywhere:
            await _purge_everywhere(context, cache, scope, report)
        else:
            report.documents = await _purge_cache(keyspace, scope)
        unknown = describe_unknown(scope.instance, await context.bindings(cache))
        if unknown and report == _Report():
            warn(unknown)
    return report


async def _purge_everywhere(
    context: CommandContext, cache: Client, scope: PurgeScope, report: _Report
) -> None:
    settings = context.settings
    keyspace = Keyspace(cache, settings.cache_redis_prefix_key)
    bindings = await context.bindings(cache)
    conversations = await _conversations(keyspace, scope)
    async with context.open_stream() as client:
        stream = StreamPurge(client, settings.stream_key, settings.stream_group)
        with progress("Reading entries", await stream.size()) as advance:
            # In this order: what workers could still write, what they wrote, what they buried.
            report.entries = await stream.delete_entries(advance, scope, bindings, conversations)
            report.documents = await _purge_cache(keyspace, scope)
            report.letters = await stream.delete_dead_letters(
                advance, scope, bindings, conversations
            )


async def _conversations(keyspace: Keyspace, scope: PurgeScope) -> Collection[int]:
    """Return the conversations of the scope: an entry without its contact still names one."""
    if scope.is_all:
        return ()
    with progress("Searching", await keyspace.size()) as advance:
        return await conversations_of(keyspace, advance, scope)


async def _purge_cache(keyspace: Keyspace, scope: PurgeScope) -> int:
    with progress("Deleting", WALKS * await keyspace.size()) as advance:
        return await purge_cache(keyspace, advance, scope)
