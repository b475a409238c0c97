"""`dead`: look at the dead letters, put them back on the stream, or throw them away."""

import argparse
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import anyio
import msgspec
from rich.console import Console

from worker.cli import table
from worker.cli.confirm import confirm
from worker.cli.formatting import format_count
from worker.cli.progress import progress
from worker.core.binding_rules import Bindings
from worker.core.cache_keys import dead_key
from worker.core.tooling.dead_letter import DeadLetter
from worker.errors import REASONS, ConfigurationError
from worker.settings import LoadedSettings, Settings
from worker.store.admin.stream_admin import StreamAdmin
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_writer import CacheSettings
from worker.store.client import open_client

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_ID: Final = re.compile("[0-9]{1,19}-[0-9]{1,19}", re.ASCII)
_COLUMNS: Final = ("id", "at", "reason", "event", "inbox", "instance", "error")


def add(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "dead",
        help="list, show, replay or purge the dead letters",
        description="What could not be cached, and why. `list` and `show` (with an id) look; "
        "`replay` puts letters back on the stream, as they were; `purge` deletes them. The options "
        "narrow each of them to some of the letters.",
    )
    parser.add_argument("action", choices=("list", "show", "replay", "purge"), help="what to do")
    parser.add_argument("id", nargs="?", metavar="ID", help="one letter, by its id")
    parser.add_argument("--reason", choices=REASONS, help="only letters with this reason")
    parser.add_argument(
        "--instance", metavar="I", help="only letters that have to do with this instance"
    )
    parser.add_argument("--age", metavar="T", help="only older letters: 90s, 15m, 12h, 7d")
    parser.add_argument(
        "--content", action="store_true", help="show what people wrote, and who they are"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before a purge")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(func=run)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which letters."""

    id: str | None
    reason: str | None
    instance: str | None
    before_ms: float | None

    def has(self, letter: DeadLetter, bindings: Bindings) -> bool:
        """Say whether a letter is one of them."""
        return (
            self.id in (None, letter.id.decode())
            and self.reason in (None, letter.reason)
            and (self.before_ms is None or letter.buried_ms < self.before_ms)
            and (self.instance is None or self.instance in letter.entry_summary.names(bindings))
        )


def run(arguments: argparse.Namespace, loaded: LoadedSettings) -> int:
    """Do it; 1 when there is no such letter, or the answer was no."""
    wanted = _wanted(arguments)
    if arguments.action == "show" and wanted.id is None:
        raise ConfigurationError("dead show needs the id of a letter: dead list shows them")
    return anyio.run(_run, arguments, loaded.settings, wanted)


def _wanted(arguments: argparse.Namespace) -> _Wanted:
    before_ms = None
    if arguments.age is not None:
        match = re.fullmatch(r"([0-9]{1,9})([smhd])", arguments.age, re.ASCII)
        if match is None:
            raise ConfigurationError("--age must be a number and s, m, h or d, such as 12h")
        before_ms = (time.time() - int(match[1]) * _UNITS_S[match[2]]) * 1000
    if arguments.id is not None and not _ID.fullmatch(arguments.id):
        raise ConfigurationError(f"{arguments.id!r} is no letter's id: dead list shows them")
    return _Wanted(arguments.id, arguments.reason, arguments.instance, before_ms)


class _Letters:
    """The dead letters of a stream, as a command sees them."""

    def __init__(self, letters: StreamAdmin, stream: StreamAdmin, bindings: Bindings) -> None:
        self.bindings = bindings
        self._letters = letters
        self._stream = stream

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return one letter."""
        entry = await self._letters.get(letter_id)
        return DeadLetter(entry.id, entry.fields) if entry else None

    async def matching(self, wanted: _Wanted, doing: str) -> AsyncIterator[list[DeadLetter]]:
        """Yield the letters that are wanted, oldest first, with a bar."""
        with progress(doing, await self._letters.length()) as advance:
            async for some in self._letters.walk():
                letters = [DeadLetter(entry.id, entry.fields) for entry in some]
                yield [letter for letter in letters if wanted.has(letter, self.bindings)]
                advance(len(some))

    async def replay(self, letters: list[DeadLetter]) -> None:
        """Put entries back, and only then take their letters away.

        Interrupted between the two, an entry is there twice; both say which entry they are
        (`_id`), so that the second changes nothing.
        """
        await self._stream.add_all([letter.original() for letter in letters])
        await self._letters.delete([letter.id for letter in letters])

    async def delete(self, letters: list[DeadLetter]) -> int:
        """Take letters away; returns how many there were."""
        return await self._letters.delete([letter.id for letter in letters])


async def _run(arguments: argparse.Namespace, settings: Settings, wanted: _Wanted) -> int:
    async with AsyncExitStack() as stack:
        cache = await stack.enter_async_context(open_client(settings.cache_uri.get_secret_value()))
        of = CacheSettings(settings.cache_redis_prefix_key, settings.cache_redis_ttl)
        stored = await BindingTable(cache, of).peek()
        client = await stack.enter_async_context(
            open_client(settings.stream_uri.get_secret_value())
        )
        letters = _Letters(
            StreamAdmin(client, dead_key(settings.stream_key)),
            StreamAdmin(client, settings.stream_key),
            stored.overruled_by(Bindings.of_operator(settings.instances)),
        )
        match arguments.action:
            case "list":
                return await _list(letters, wanted, as_json=arguments.json)
            case "show":
                return await _show(letters, arguments.id, content=arguments.content)
            case "replay":
                return await _replay(letters, wanted, settings, as_json=arguments.json)
            case _:
                return await _purge(letters, wanted, yes=arguments.yes, as_json=arguments.json)


async def _list(letters: _Letters, wanted: _Wanted, *, as_json: bool) -> int:
    rows: list[dict[str, Any]] = []
    async for some in letters.matching(wanted, "Reading"):
        rows += [letter.summary(letters.bindings) for letter in some]
    table.print_rows(rows, _COLUMNS, as_json=as_json, spare=("at", "event"))
    return 0


async def _show(letters: _Letters, letter_id: str, *, content: bool) -> int:
    letter = await letters.get(letter_id)
    if letter is None:
        sys.stderr.write(f"chatwoot-cache: there is no letter {letter_id}\n")
        return 1
    _print(letter.details(letters.bindings, content=content))
    return 0


async def _replay(letters: _Letters, wanted: _Wanted, settings: Settings, *, as_json: bool) -> int:
    replayed = old = 0
    oldest_ms = (time.time() - settings.cache_redis_ttl) * 1000
    async for some in letters.matching(wanted, "Replaying"):
        if some:
            await letters.replay(some)
        replayed += len(some)
        old += sum(letter.first_ms < oldest_ms for letter in some)
    said = f"Put {replayed} entries back on the stream.\n"
    if old:
        said += f"{old} are older than CACHE_REDIS_TTL: they update documents, and create none.\n"
    _say({"replayed": replayed, "older_than_ttl": old}, said, as_json=as_json)
    return 0 if replayed or wanted.id is None else 1


async def _purge(letters: _Letters, wanted: _Wanted, *, yes: bool, as_json: bool) -> int:
    count = 0
    async for some in letters.matching(wanted, "Counting"):
        count += len(some)
    if count and not confirm(f"Delete {count} dead letters for ever?", yes=yes):
        sys.stderr.write("chatwoot-cache: nothing was deleted\n")
        return 1
    deleted = 0
    async for some in letters.matching(wanted, "Deleting"):
        deleted += await letters.delete(some)
    _say(
        {"deleted": deleted}, f"Deleted {format_count(deleted, 'dead letter')}.\n", as_json=as_json
    )
    return 0 if deleted or wanted.id is None else 1


def _say(result: dict[str, int], said: str, *, as_json: bool) -> None:
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n" if as_json else said)


def _print(letter: dict[str, Any]) -> None:
    console = Console()
    encoded = msgspec.json.encode(letter)
    if console.is_terminal:
        console.print_json(encoded.decode())
    else:
        sys.stdout.buffer.write(msgspec.json.format(encoded, indent=2) + b"\n")
