"""`bindings`: which inbox is cached under which instance, and how to change that."""

import argparse
import re
import sys
from typing import Final

import anyio

from worker.cli import table
from worker.cli.formatting import format_count
from worker.cli.progress import progress
from worker.consumer.instance_resolver import CHECK_S
from worker.core.binding_rules import Bindings
from worker.errors import ConfigurationError
from worker.settings import LoadedSettings, Settings, is_valid_name
from worker.store.admin.rebind import erase_inbox
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_writer import CacheSettings
from worker.store.cache.keyspace import Keyspace
from worker.store.client import open_client

_INBOX: Final = re.compile("[1-9][0-9]{0,15}/[1-9][0-9]{0,15}", re.ASCII)


def add(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "bindings",
        help="list, set or drop which inbox is cached under which instance",
        usage="chatwoot-cache bindings list [--json]\n"
        "       chatwoot-cache bindings set ACCOUNT/INBOX INSTANCE\n"
        "       chatwoot-cache bindings drop ACCOUNT/INBOX",
        description="Which inbox is cached under which instance. `set` and `drop` hold for all "
        "workers at once, and delete the inbox's documents from where they do not belong any "
        "more; where that was interrupted, the same command again completes it.",
    )
    parser.add_argument("action", choices=("list", "set", "drop"), help="what to do")
    parser.add_argument("inbox", nargs="?", metavar="ACCOUNT/INBOX", help="such as 3/12")
    parser.add_argument("instance", nargs="?", metavar="INSTANCE", help="Evolution instance")
    parser.add_argument("--json", action="store_true", help="print the result as JSON lines")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace, loaded: LoadedSettings) -> int:
    """List or change bindings."""
    inbox, instance = arguments.inbox, arguments.instance
    match arguments.action:
        case "list":
            _check(inbox is None, "bindings list takes no inbox")
            anyio.run(_list, loaded.settings, arguments.json)
        case "set":
            _check(instance is not None, "bindings set needs an inbox and an instance")
            _check_inbox(inbox, loaded.settings, instance)
            _check(is_valid_name(instance), "INSTANCE must be 1 to 255 bytes of UTF-8")
            anyio.run(_change, loaded.settings, inbox, instance)
        case _:
            _check(inbox is not None and instance is None, "bindings drop needs an inbox only")
            _check_inbox(inbox, loaded.settings, None)
            anyio.run(_change, loaded.settings, inbox, None)
    return 0


def _check(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - as an assertion
    if not holds:
        raise ConfigurationError(otherwise)


def _check_inbox(inbox: str, settings: Settings, instance: str | None) -> None:
    _check(bool(_INBOX.fullmatch(inbox)), f"{inbox!r} is no inbox: write account/inbox, as in 3/12")
    stated = settings.instances.get(inbox, instance)
    _check(
        stated == instance,
        f"CHATWOOT_CACHE_INSTANCES says that inbox {inbox} is {stated!r}, which outranks this: "
        "change it there, and restart the workers",
    )


async def _list(settings: Settings, as_json: bool) -> None:  # noqa: FBT001 - anyio passes by position
    of = CacheSettings(settings.cache_redis_prefix_key, settings.cache_redis_ttl)
    async with open_client(settings.cache_uri.get_secret_value()) as client:
        stored = await BindingTable(client, of).peek()
    bindings = stored.overruled_by(Bindings.of_operator(settings.instances))
    rows = [
        {
            "inbox": inbox,
            "instance": instance,
            "account_of_instance": bindings.accounts.get(instance),
            "stated_in": "settings" if inbox in settings.instances else "cache",
        }
        for inbox, instance in sorted(bindings.instances.items(), key=_in_numbers)
    ]
    table.print_rows(rows, ("inbox", "instance", "stated_in"), as_json=as_json)


def _in_numbers(binding: tuple[str, str]) -> list[int]:
    return [int(number) for number in binding[0].split("/")]


async def _change(settings: Settings, inbox: str, instance: str | None) -> None:
    of = CacheSettings(settings.cache_redis_prefix_key, settings.cache_redis_ttl)
    async with open_client(settings.cache_uri.get_secret_value()) as client:
        bindings = BindingTable(client, of)
        if instance is None:
            before = await bindings.drop(inbox)
        else:
            await _check_account(bindings, settings, inbox, instance)
            before = await bindings.put(Bindings.of_operator({inbox: instance}))
        was = before.get(inbox)
        namespace = Keyspace(client, of.prefix)
        with progress("Clearing", await namespace.size()) as advance:
            # Where nothing changed, an earlier try may have been interrupted: look everywhere.
            cleared = await erase_inbox(namespace, advance, inbox, was=was, now=instance)
        # From then on no worker refuses or ignores an event by what was bound before.
        await anyio.sleep(CHECK_S)
    _say(inbox, was, instance, cleared)


async def _check_account(
    bindings: BindingTable, settings: Settings, inbox: str, instance: str
) -> None:
    standing = (await bindings.peek()).overruled_by(Bindings.of_operator(settings.instances))
    account = inbox.partition("/")[0]
    others = [o for o in standing.inboxes_of(instance) if o.partition("/")[0] != account]
    drops = " && ".join(f"chatwoot-cache bindings drop {other}" for other in others)
    _check(
        not others,
        f"instance {instance!r} belongs to another account, by inbox {', '.join(others)}: "
        f"choose another name, or first: {drops}",
    )


def _say(inbox: str, was: str | None, instance: str | None, cleared: int) -> None:
    name = table.printable(instance)
    now = f"Inbox {inbox} is instance {name}" if instance else f"Inbox {inbox} is not bound"
    before = f", and was {table.printable(was)}" if was else ""
    where = " from elsewhere" if instance else ""
    sys.stdout.write(f"{now}{before}. Deleted {format_count(cleared, 'document')} of it{where}.\n")
    if instance:
        sys.stdout.write(
            "What was refused comes in with: chatwoot-cache dead replay --reason instance_conflict"
            " (or no_instance)\n"
        )
