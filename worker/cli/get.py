"""`get`: read the cache, as JSON."""

import argparse
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import msgspec
from rich.console import Console

from worker.core.document_views import ConversationView, MessageView
from worker.core.message_page import MessageRange, page_json
from worker.core.stream_entry import MAX_ID
from worker.errors import ConfigurationError
from worker.settings import LoadedSettings, is_valid_name
from worker.store.cache.document_reader import DocumentReader, InstanceReader
from worker.store.cache.scriptless_reader import ScriptlessReader
from worker.store.client import open_client

_MAX_LIMIT: Final = 200


def add(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "get",
        help="read a message, a conversation or its last messages from the cache",
        description="Read the cache of one instance, as JSON. Exit code 1: not in the cache.",
    )
    parser.add_argument("instance", metavar="INSTANCE", help="Evolution instance")
    parser.add_argument("what", choices=sorted(_READERS), help="what to read")
    parser.add_argument(
        "id",
        metavar="ID",
        help="message id, source id (WAID:…), conversation id, or a contact's JID or phone number",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=20,
        metavar="N",
        help=f"how many messages, newest, 1 to {_MAX_LIMIT} (20)",
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace, loaded: LoadedSettings) -> int:
    """Print what was asked for; 1 when the cache does not have it."""
    if not is_valid_name(arguments.instance):
        raise ConfigurationError("INSTANCE must be 1 to 255 bytes of UTF-8")
    if not 1 <= arguments.limit <= _MAX_LIMIT:
        raise ConfigurationError(f"--limit must be 1 to {_MAX_LIMIT}")
    found = anyio.run(_read, arguments, loaded)
    if found is None:
        what = f"{arguments.what} {arguments.id}"
        sys.stderr.write(f"chatwoot-cache: the cache of {arguments.instance!r} has no {what}\n")
        return 1
    _print(found)
    return 0


async def _read(arguments: argparse.Namespace, loaded: LoadedSettings) -> bytes | None:
    settings = loaded.settings
    async with open_client(settings.cache_uri.get_secret_value()) as client:
        prefix = settings.cache_redis_prefix_key
        # By plain commands: who may read one instance only may run no scripts.
        reader = DocumentReader(ScriptlessReader(client, prefix), prefix).of(arguments.instance)
        return await _READERS[arguments.what](reader, arguments)


async def _message(reader: InstanceReader, arguments: argparse.Namespace) -> bytes | None:
    return _json(await reader.message(_number(arguments.id)))


async def _source(reader: InstanceReader, arguments: argparse.Namespace) -> bytes | None:
    return _json(await reader.message_by_source(arguments.id))


async def _conversation(reader: InstanceReader, arguments: argparse.Namespace) -> bytes | None:
    return _json(await reader.conversation(_number(arguments.id)))


async def _messages(reader: InstanceReader, arguments: argparse.Namespace) -> bytes | None:
    page = await reader.page(_number(arguments.id), MessageRange(arguments.limit))
    return page_json(page) if page else None


async def _contact(reader: InstanceReader, arguments: argparse.Namespace) -> bytes | None:
    display_id = await reader.conversation_of(arguments.id)
    return None if display_id is None else _json(await reader.conversation(display_id))


_READERS: Final[
    dict[str, Callable[[InstanceReader, argparse.Namespace], Awaitable[bytes | None]]]
] = {
    "message": _message,
    "source": _source,
    "conversation": _conversation,
    "messages": _messages,
    "contact": _contact,
}


def _json(view: MessageView | ConversationView | None) -> bytes | None:
    return view.json if view else None


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_ID))):
        raise ConfigurationError(f"{text!r} is no id of Chatwoot's: those are whole numbers")
    return int(text)


def _print(document: bytes) -> None:
    console = Console()
    if console.is_terminal:
        console.print_json(document.decode())
    else:
        sys.stdout.buffer.write(msgspec.json.format(document, indent=2) + b"\n")
