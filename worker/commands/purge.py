"""`purge`: take an instance, a conversation or a contact out of the cache."""

import argparse
import sys
from collections.abc import Collection
from contextlib import AsyncExitStack

import anyio
import msgspec

from worker.commands import table
from worker.commands.asking import agreed
from worker.commands.progress import progress
from worker.commands.quantities import counted
from worker.core.bindings import Bindings
from worker.core.contacts import names_of
from worker.core.selection import Selection
from worker.errors import Misconfigured
from worker.settings import Loaded, Settings, fits
from worker.store.bindings import BindingTable
from worker.store.cache import CacheSettings
from worker.store.connect import Client, joined
from worker.store.everywhere import Everywhere
from worker.store.forgetting import WALKS, conversations_of, forget
from worker.store.namespace import Namespace


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


def run(arguments: argparse.Namespace, loaded: Loaded) -> int:
    """Delete what was asked for; 1 when the answer was no."""
    selection = _selection(arguments)
    where = "the cache, the stream and the dead letters" if arguments.everywhere else "the cache"
    if not agreed(f"Delete {_named(arguments)} from {where}?", yes=arguments.yes):
        sys.stderr.write("chatwoot-cache: nothing was deleted\n")
        return 1
    report = anyio.run(_purge, loaded.settings, selection, arguments.everywhere)
    if arguments.contact is not None and report == _Report():
        _tell_other_form(arguments.contact)
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
        return 0
    others = (
        f", {report.entries} entries and {counted(report.letters, 'dead letter')}"
        if arguments.everywhere
        else ""
    )
    sys.stdout.write(f"Deleted {counted(report.documents, 'document')}{others}.\n")
    return 0


def _tell_other_form(contact: str) -> None:
    """Say under which number somebody in Brazil may be stored, whom nobody knew by this one."""
    for number in names_of(contact).other_form[:1]:
        sys.stderr.write(
            f"chatwoot-cache: nothing is stored of this number; it may be written {number} there:"
            f" if that is the same person, purge --contact {number}\n"
        )


def _selection(arguments: argparse.Namespace) -> Selection:
    if not fits(arguments.instance):
        raise Misconfigured("INSTANCE must be 1 to 255 bytes of UTF-8")
    if arguments.conversation is not None and arguments.conversation < 1:
        raise Misconfigured("--conversation must be a display id, 1 or more")
    found = Selection.of(arguments.instance, arguments.conversation, arguments.contact)
    if arguments.contact is not None and not found.contact:
        raise Misconfigured("--contact must be a JID or a phone number")
    return found


def _named(arguments: argparse.Namespace) -> str:
    instance = f"instance {table.visible(arguments.instance)}"
    if arguments.conversation is not None:
        return f"conversation {arguments.conversation} of {instance}"
    if arguments.contact is not None:
        return f"contact {table.visible(arguments.contact)} of {instance}"
    return f"all of {instance}"


async def _purge(settings: Settings, selection: Selection, everywhere: bool) -> _Report:  # noqa: FBT001 - anyio passes by position
    report = _Report()
    async with AsyncExitStack() as stack:
        cache = await stack.enter_async_context(joined(settings.cache_uri.get_secret_value()))
        namespace = Namespace(cache, settings.cache_redis_prefix_key)
        if not everywhere:
            report.documents = await _forget(namespace, selection)
            return report

        bindings = await _bindings(settings, cache)
        conversations = await _conversations(namespace, selection)
        stream = await stack.enter_async_context(joined(settings.stream_uri.get_secret_value()))
        entries = Everywhere(stream, settings.stream_key, settings.stream_group)
        with progress("Reading entries", await entries.size()) as advance:
            # First what workers could still write, then what they wrote, then what they buried.
            report.entries = await entries.forget_entries(
                advance, selection, bindings, conversations
            )
            report.documents = await _forget(namespace, selection)
            report.letters = await entries.forget_letters(
                advance, selection, bindings, conversations
            )
    return report


async def _bindings(settings: Settings, cache: Client) -> Bindings:
    of = CacheSettings(settings.cache_redis_prefix_key, settings.cache_redis_ttl)
    stored = await BindingTable(cache, of).peek()
    return stored.overruled_by(Bindings.of_operator(settings.instances))


async def _conversations(namespace: Namespace, selection: Selection) -> Collection[int]:
    """Return whose entries are to go: an entry without its contact still names the conversation."""
    if selection.is_all:
        return ()
    with progress("Looking", await namespace.size()) as advance:
        return await conversations_of(namespace, advance, selection)


async def _forget(namespace: Namespace, selection: Selection) -> int:
    with progress("Deleting", WALKS * await namespace.size()) as advance:
        return await forget(namespace, advance, selection)
