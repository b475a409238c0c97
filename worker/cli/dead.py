"""List, show, replay or purge the dead letters.

A dead letter is an event that could not be cached, with the reason. `list` and `show` (with an
ID) only read; `replay` puts the original entries back on the stream; `purge` deletes dead letters.
The options restrict each of them to some dead letters.
"""

import re
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import anyio
import msgspec

from worker.cli.context import CommandContext, describe_unknown
from worker.cli.formatting import format_count
from worker.cli.output import confirm, print_document, print_json, print_rows, progress, warn
from worker.core.binding_rules import Bindings
from worker.core.cache_keys import dead_key
from worker.core.operations.dead_letter import DeadLetter
from worker.errors import REASONS, ConfigurationError
from worker.settings import LoadedSettings
from worker.store.admin.stream_admin import StreamAdmin

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_ID: Final = re.compile("[0-9]{1,19}-[0-9]{1,19}", re.ASCII)
_COLUMNS: Final = ("id", "at", "reason", "event", "inbox", "instance", "error")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("action", choices=("list", "show", "replay", "purge"), help="what to do")
    add("id", nargs="?", metavar="ID", help="one dead letter, by its id")
    add("--reason", choices=REASONS, help="only with this reason")
    add("--instance", metavar="INSTANCE", help="only what concerns this instance")
    add("--age", metavar="T", help="only older than this: 90s, 15m, 12h, 7d")
    add("--content", action="store_true", help="show texts, names and numbers of people")
    add("--yes", action="store_true", help="do not ask before a purge")
    add("--json", action="store_true", help="print the result as JSON")


def run(arguments: Namespace, loaded: LoadedSettings) -> int:
    """Run the action; 1 when there is no such dead letter, or a purge was not confirmed."""
    if arguments.action == "show" and arguments.id is None:
        raise ConfigurationError("dead show needs the id of a dead letter: see dead list")
    if arguments.id is not None and not _ID.fullmatch(arguments.id):
        raise ConfigurationError(f"{arguments.id!r} is not the id of a dead letter: see dead list")
    before_ms = None if arguments.age is None else (time.time() - _age_s(arguments.age)) * 1000
    return anyio.run(_run, arguments, CommandContext(loaded), before_ms)


def _age_s(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text, re.ASCII)
    if match is None:
        raise ConfigurationError("--age must be a number and s, m, h or d, such as 12h")
    return int(match[1]) * _UNITS_S[match[2]]


@dataclass(frozen=True, slots=True)
class _DeadLetters:
    """The dead letters of a stream, and which of them are selected."""

    dead: StreamAdmin
    stream: StreamAdmin
    bindings: Bindings
    selection: Namespace
    before_ms: float | None

    async def batches(self, description: str) -> AsyncIterator[list[DeadLetter]]:
        """Yield the selected dead letters, oldest first, with a progress bar."""
        with progress(description, await self.dead.length()) as advance:
            async for entries in self.dead.walk():
                batch = [DeadLetter(entry.id, entry.fields) for entry in entries]
                yield [letter for letter in batch if self._is_selected(letter)]
                advance(len(entries))

    def _is_selected(self, letter: DeadLetter) -> bool:
        by = self.selection
        return (
            by.id in (None, letter.id.decode())
            and by.reason in (None, letter.reason)
            and (self.before_ms is None or letter.buried_ms < self.before_ms)
            and (by.instance is None or by.instance in letter.entry_summary.names(self.bindings))
        )


async def _run(arguments: Namespace, context: CommandContext, before_ms: float | None) -> int:
    key = context.settings.stream_key
    async with context.open_cache() as cache, context.open_stream() as client:
        bindings = await context.bindings(cache)
        dead, stream = StreamAdmin(client, dead_key(key)), StreamAdmin(client, key)
        letters = _DeadLetters(dead, stream, bindings, arguments, before_ms)
        match arguments.action:
            case "list":
                return await _list(letters)
            case "show":
                return await _show(letters)
            case "replay":
                return await _replay(letters, context.settings.cache_redis_ttl)
            case _:
                return await _purge(letters)


async def _list(letters: _DeadLetters) -> int:
    rows: list[dict[str, Any]] = []
    async for batch in letters.batches("Reading"):
        rows += [letter.summary(letters.bindings) for letter in batch]
    instance = letters.selection.instance
    if not rows and instance and (unknown := describe_unknown(instance, letters.bindings)):
        warn(unknown)
    print_rows(rows, _COLUMNS, as_json=letters.selection.json, optional=("at", "event"))
    return 0


async def _show(letters: _DeadLetters) -> int:
    entry = await letters.dead.get(letters.selection.id)
    if entry is None:
        warn(f"there is no dead letter {letters.selection.id}")
        return 1
    letter = DeadLetter(entry.id, entry.fields)
    shown = letter.details(letters.bindings, content=letters.selection.content)
    print_document(msgspec.json.encode(shown))
    return 0


async def _replay(letters: _DeadLetters, ttl_s: int) -> int:
    replayed = old = 0
    oldest_ms = (time.time() - ttl_s) * 1000
    async for batch in letters.batches("Replaying"):
        if batch:
            # In this order: after an interruption an entry may be there twice, never lost. Both
            # copies have the same `_id`, so that the second changes nothing.
            await letters.stream.add_all([letter.original() for letter in batch])
            await letters.dead.delete([letter.id for letter in batch])
        replayed += len(batch)
        old += sum(letter.first_ms < oldest_ms for letter in batch)
    text = f"Put {format_count(replayed, 'entry', 'entries')} back on the stream."
    if old:
        text += f"\n{old} of them are older than CACHE_REDIS_TTL: they update documents that exist,"
        text += " and create none."
    return _end(letters, replayed, text, {"replayed": replayed, "older_than_ttl": old})


async def _purge(letters: _DeadLetters) -> int:
    count = 0
    async for batch in letters.batches("Counting"):
        count += len(batch)
    question = f"Delete {format_count(count, 'dead letter')} permanently?"
    if count and not confirm(question, yes=letters.selection.yes):
        warn("nothing was deleted")
        return 1
    deleted = 0
    async for batch in letters.batches("Deleting"):
        deleted += await letters.dead.delete([letter.id for letter in batch])
    text = f"Deleted {format_count(deleted, 'dead letter')}."
    return _end(letters, deleted, text, {"deleted": deleted})


def _end(letters: _DeadLetters, count: int, text: str, result: dict[str, int]) -> int:
    """Print the result; return 1 when the requested dead letter was not there."""
    if letters.selection.json:
        print_json(result)
    else:
        sys.stdout.write(f"{text}\n")
    return 0 if count or letters.selection.id is None else 1
