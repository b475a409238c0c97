"""`purge`: take an instance, a conversation or a contact out of the cache."""

import argparse
import sys
from collections.abc import Collection
from contextlib import AsyncExitStack

import anyio
import msgspec

from worker.cli import table
from worker.cli.confirm import confirm
from worker.cli.formatting import format_count
from worker.cli.progress import progress
from worker.core.binding_rules import Bindings
from worker.core.contact_names import lookup_names
from worker.core.tooling.purge_scope import PurgeScope
from worker.errors import ConfigurationError
from worker.settings import LoadedSettings, Settings, is_valid_name
from worker.store.admin.cache_purge import WALKS, conversations_of, purge_cache
from worker.store.admin.stream_purge import StreamPurge
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_writer import CacheSettings
from worker.store.cache.keyspace import Keyspace
from worker.store.client import Client, open_client


def add(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "purge",
        help="delete an instance, a conversation or a contact from the cache",
        description="Delete exactly the keys of one instance, or of one conversation or contact of "
        "it, in steps. Bindings stay. Asks first on a terminal.",
    )
    parser.add_argument("instance", metavar="INSTANCE", help="Evolution instance")
    narrower = parser.add_mutually_exclusive_group()
    narrower.add_argument(
        "--conversation", type=int, metavar="N", help="only this conversation, by its display id"
    )
    narrower.add_argument(
        "--contact", metavar="ID", help="only this contact, by JID or phone number"
    )
    parser.add_argument(
        "--everywhere",
        action="store_true",
        help="also entries on the stream and dead letters: the right to erasure",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(func=run)


class _Report(msgspec.Struct):
    """How many were deleted of each."""

    documents: int = 0
    entries: int = 0
    letters: int = 0


def run(arguments: argparse.Namespace, loaded: LoadedSettings) -> int:
    """Delete what was asked for; 1 when the answer was no."""
    selection = _selection(arguments)
    where = "the cache, the stream and the dead letters" if arguments.everywhere else "the cache"
    if not confirm(f"Delete {_named(arguments)} from {where}?", yes=arguments.yes):
        sys.stderr.write("chatwoot-cache: nothing was deleted\n")
        return 1
    report = anyio.run(_purge, loaded.settings, selection, arguments.everywhere)
    if arguments.contact is not None and report == _Report():
        _tell_other_form(arguments.contact)
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
        return 0
    others = (
        f", {report.entries} entries and {format_count(report.letters, 'dead letter')}"
        if arguments.everywhere
        else ""
    )
    sys.stdout.write(f"Deleted {format_count(report.documents, 'document')}{others}.\n")
    return 0


def _tell_other_form(contact: str) -> None:
    """Say under which number somebody in Brazil may be stored, whom nobody knew by this one."""
    for number in lookup_names(contact).other_form[:1]:
        sys.stderr.write(
            f"chatwoot-cache: nothing is stored of this number; it may be written {number} there:"
            f" if that is the same person, purge --contact {number}\n"
        )


def _selection(arguments: argparse.Namespace) -> PurgeScope:
    if not is_valid_name(arguments.instance):
        raise ConfigurationError("INSTANCE must be 1 to 255 bytes of UTF-8")
    if arguments.conversation is not None and arguments.conversation < 1:
        raise ConfigurationError("--conversation must be a display id, 1 or more")
    found = PurgeScope.of(arguments.instance, arguments.conversation, arguments.contact)
    if arguments.contact is not None and not found.contact:
        raise ConfigurationError("--contact must be a JID or a phone number")
    return found


def _named(arguments: argparse.Namespace) -> str:
    instance = f"instance {table.printable(arguments.instance)}"
    if arguments.conversation is not None:
        return f"conversation {arguments.conversation} of {instance}"
    if arguments.contact is not None:
        return f"contact {table.printable(arguments.contact)} of {instance}"
    return f"all of {instance}"


async def _purge(settings: Settings, selection: PurgeScope, everywhere: bool) -> _Report:  # noqa: FBT001 - anyio passes by position
    report = _Report()
    async with AsyncExitStack() as stack:
        cache = await stack.enter_async_context(open_client(settings.cache_uri.get_secret_value()))
        namespace = Keyspace(cache, settings.cache_redis_prefix_key)
        if not everywhere:
            report.documents = await _forget(namespace, selection)
            return report

        bindings = await _bindings(settings, cache)
        conversations = await _conversations(namespace, selection)
        stream = await stack.enter_async_context(
            open_client(settings.stream_uri.get_secret_value())
        )
        entries = StreamPurge(stream, settings.stream_key, settings.stream_group)
        with progress("Reading entries", await entries.size()) as advance:
            # First what workers could still write, then what they wrote, then what they buried.
            report.entries = await entries.delete_entries(
                advance, selection, bindings, conversations
            )
            report.documents = await _forget(namespace, selection)
            report.letters = await entries.delete_dead_letters(
                advance, selection, bindings, conversations
            )
    return report


async def _bindings(settings: Settings, cache: Client) -> Bindings:
    of = CacheSettings(settings.cache_redis_prefix_key, settings.cache_redis_ttl)
    stored = await BindingTable(cache, of).peek()
    return stored.overruled_by(Bindings.of_operator(settings.instances))


async def _conversations(namespace: Keyspace, selection: PurgeScope) -> Collection[int]:
    """Return whose entries are to go: an entry without its contact still names the conversation."""
    if selection.is_all:
        return ()
    with progress("Looking", await namespace.size()) as advance:
        return await conversations_of(namespace, advance, selection)


async def _forget(namespace: Keyspace, selection: PurgeScope) -> int:
    with progress("Deleting", WALKS * await namespace.size()) as advance:
        return await purge_cache(namespace, advance, selection)
