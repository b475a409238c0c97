"""Read a message, a conversation or its last messages from the cache.

Prints JSON. Exit code 1: not in the cache.
"""

from argparse import ArgumentParser, Namespace
from typing import Final

import anyio

from worker.cli.context import CommandContext, check_instance_name, describe_unknown
from worker.cli.output import print_document, warn
from worker.core.history.message_page import MessagePage, page_json
from worker.errors import ConfigurationError, PermissionDenied
from worker.reads.lookup import Found, find
from worker.reads.read_request import DEFAULT_LIMIT, MAX_LIMIT, ReadRequest, parse_id
from worker.settings import LoadedSettings
from worker.store.cache.document_reader import DocumentReader
from worker.store.cache.scriptless_reader import ScriptlessReader
from worker.store.client import Client

_READ_BY_ID: Final = ("conversation", "message", "messages")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("instance", metavar="INSTANCE", help="Evolution instance")
    parser.add_argument("what", choices=sorted((*_READ_BY_ID, "contact", "source")), help="type")
    parser.add_argument(
        "id",
        metavar="ID",
        help="message id, source id (WAID:…), conversation id, or a contact's JID or phone number",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=DEFAULT_LIMIT,
        metavar="N",
        help=f"number of messages, the newest, 1 to {MAX_LIMIT} (default {DEFAULT_LIMIT})",
    )


def run(arguments: Namespace, loaded: LoadedSettings) -> int:
    """Print the document; 1 when it is not in the cache."""
    check_instance_name(arguments.instance)
    if not 1 <= arguments.limit <= MAX_LIMIT:
        raise ConfigurationError(f"--limit must be 1 to {MAX_LIMIT}")
    if arguments.what in _READ_BY_ID and parse_id(arguments.id) is None:
        raise ConfigurationError(f"{arguments.id!r} is not a valid Chatwoot id: a whole number")
    request = ReadRequest(
        arguments.what, arguments.instance, arguments.id, limit=arguments.limit, private=True
    )
    return anyio.run(_run, CommandContext(loaded), request)


async def _run(context: CommandContext, request: ReadRequest) -> int:
    async with context.open_cache() as cache:
        found = await _find(context, cache, request)
        if found is None:
            warn(await _describe_missing(context, cache, request))
            return 1
    print_document(page_json(found) if isinstance(found, MessagePage) else found.json)
    return 0


async def _find(context: CommandContext, cache: Client, request: ReadRequest) -> Found | None:
    prefix = context.settings.cache_redis_prefix_key
    # Without scripts: a user that may read only one instance may not run any.
    rules = context.settings.origin_rules
    documents = DocumentReader(ScriptlessReader(cache, prefix), prefix, rules=rules)
    reader = documents.of(request.instance)
    if request.kind != "contact":
        return await find(reader, request)
    display_id = await reader.conversation_of(request.target)
    return None if display_id is None else await reader.conversation(display_id)


async def _describe_missing(context: CommandContext, cache: Client, request: ReadRequest) -> str:
    missing = f"the cache of {request.instance!r} has no {request.kind} {request.target}"
    try:
        bindings = await context.bindings(cache)
    except PermissionDenied:
        return missing
    return describe_unknown(request.instance, bindings) or missing
