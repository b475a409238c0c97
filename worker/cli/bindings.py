"""List, set or drop which inbox is cached under which instance.

`set` and `drop` take effect for all workers at once, and delete the inbox's documents from where
they no longer belong. If a change was interrupted, the same command again completes it.
"""

import re
import sys
from argparse import ArgumentParser, Namespace
from typing import Final

import anyio

from worker.cli.context import CommandContext, check_instance_name
from worker.cli.formatting import format_count
from worker.cli.output import print_rows, printable, progress
from worker.consumer.instance_resolver import CHECK_S
from worker.core.binding_rules import Bindings
from worker.errors import ConfigurationError
from worker.settings import LoadedSettings, Settings
from worker.store.admin.inbox_erasure import erase_inbox
from worker.store.cache.keyspace import Keyspace

_INBOX: Final = re.compile("[1-9][0-9]{0,15}/[1-9][0-9]{0,15}", re.ASCII)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.usage = (
        "chatwoot-cache bindings list [--json]\n"
        "       chatwoot-cache bindings set ACCOUNT/INBOX INSTANCE\n"
        "       chatwoot-cache bindings drop ACCOUNT/INBOX"
    )
    parser.add_argument("action", choices=("list", "set", "drop"), help="what to do")
    parser.add_argument("inbox", nargs="?", metavar="ACCOUNT/INBOX", help="such as 3/12")
    parser.add_argument("instance", nargs="?", metavar="INSTANCE", help="Evolution instance")
    parser.add_argument("--json", action="store_true", help="print the result as JSON lines")


def run(arguments: Namespace, loaded: LoadedSettings) -> int:
    """List or change bindings."""
    context, inbox, instance = CommandContext(loaded), arguments.inbox, arguments.instance
    match arguments.action:
        case "list":
            _require(inbox is None, "bindings list takes no inbox")
            anyio.run(_list, context, arguments.json)
        case "set":
            _require(instance is not None, "bindings set needs an inbox and an instance")
            _check_inbox(inbox, loaded.settings, instance)
            check_instance_name(instance)
            anyio.run(_change, context, inbox, instance)
        case _:
            _require(inbox is not None and instance is None, "bindings drop needs an inbox only")
            _check_inbox(inbox, loaded.settings, None)
            anyio.run(_change, context, inbox, None)
    return 0


def _require(condition: bool, message: str) -> None:  # noqa: FBT001 - as an assertion
    if not condition:
        raise ConfigurationError(message)


def _check_inbox(inbox: str, settings: Settings, instance: str | None) -> None:
    _require(
        bool(_INBOX.fullmatch(inbox)), f"{inbox!r} is not an inbox: write account/inbox, as in 3/12"
    )
    stated = settings.instances.get(inbox, instance)
    _require(
        stated == instance,
        f"CHATWOOT_CACHE_INSTANCES binds inbox {inbox} to {stated!r} and overrules this command: "
        "change it there, and restart the workers",
    )


async def _list(context: CommandContext, as_json: bool) -> None:  # noqa: FBT001 - anyio passes by position
    async with context.open_cache() as cache:
        bindings = await context.bindings(cache)
    rows = [
        {
            "inbox": inbox,
            "instance": instance,
            "account_of_instance": bindings.accounts.get(instance),
            "stated_in": "settings" if inbox in context.settings.instances else "cache",
        }
        for inbox, instance in sorted(bindings.instances.items(), key=_numeric_inbox)
    ]
    print_rows(rows, ("inbox", "instance", "stated_in"), as_json=as_json)


def _numeric_inbox(binding: tuple[str, str]) -> list[int]:
    return [int(number) for number in binding[0].split("/")]


async def _change(context: CommandContext, inbox: str, instance: str | None) -> None:
    async with context.open_cache() as cache:
        table = context.binding_table(cache)
        if instance is None:
            previous = await table.drop(inbox)
        else:
            _check_account(await context.bindings(cache), inbox, instance)
            previous = await table.put(Bindings.of_operator({inbox: instance}))
        was = previous.get(inbox)
        keyspace = Keyspace(cache, context.cache_settings.prefix)
        with progress("Deleting", await keyspace.size()) as advance:
            # If nothing changed, an earlier try may have been interrupted: search everywhere.
            deleted = await erase_inbox(keyspace, advance, inbox, was=was, now=instance)
        # After this time no worker decides by the previous binding any more.
        await anyio.sleep(CHECK_S)
    _print_change(inbox, was, instance, deleted)


def _check_account(bindings: Bindings, inbox: str, instance: str) -> None:
    account = inbox.partition("/")[0]
    others = [o for o in bindings.inboxes_of(instance) if o.partition("/")[0] != account]
    drops = " && ".join(f"chatwoot-cache bindings drop {other}" for other in others)
    _require(
        not others,
        f"instance {instance!r} belongs to another account, by inbox {', '.join(others)}: "
        f"choose another name, or first run {drops}",
    )


def _print_change(inbox: str, was: str | None, instance: str | None, deleted: int) -> None:
    now = f"bound to instance {printable(instance)}" if instance else "not bound"
    before = f" (was {printable(was)})" if was else ""
    place = " from other instances" if instance else ""
    sys.stdout.write(f"Inbox {inbox} is {now}{before}.\n")
    sys.stdout.write(f"Deleted {format_count(deleted, 'document')} of it{place}.\n")
    if instance:
        sys.stdout.write(
            "To cache events that were refused before: chatwoot-cache dead replay "
            "--reason instance_conflict (or no_instance)\n"
        )
