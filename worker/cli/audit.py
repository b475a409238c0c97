"""Look for documents and keys that should not be in the cache.

Reads every key of the prefix, in steps, and reports documents under the wrong instance, account or
inbox, keys without a time to live, and keys that this program does not write. Changes nothing.
Exit code 1: something was found.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from typing import Final

import anyio
import msgspec

from worker.cli.context import CommandContext
from worker.cli.formatting import format_count
from worker.cli.output import print_json, print_rows, progress
from worker.core.binding_rules import Bindings
from worker.core.operations.audit_rules import (
    AuditFinding,
    examine_document,
    examine_key,
    examine_pointer,
)
from worker.settings import LoadedSettings
from worker.store.cache.keyspace import KeyInfo, Keyspace

_DOCUMENTS: Final = ("message", "conversation")
_MAX_FINDINGS: Final = 10_000
"""Findings that are listed; all of them are counted."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


class _Report(msgspec.Struct):
    keys: int = 0
    documents: Counter[str] = msgspec.field(default_factory=Counter)
    problems: Counter[str] = msgspec.field(default_factory=Counter)
    findings: list[AuditFinding] = msgspec.field(default_factory=list)


def run(arguments: Namespace, loaded: LoadedSettings) -> int:
    """Report what is wrong; 1 when anything is."""
    report = anyio.run(_audit, CommandContext(loaded))
    if arguments.json:
        print_json(report)
    else:
        _print(report)
    return 1 if report.problems else 0


async def _audit(context: CommandContext) -> _Report:
    report, suspects = _Report(), dict[bytes, None]()
    async with context.open_cache() as cache:
        keyspace = Keyspace(cache, context.settings.cache_redis_prefix_key)
        bindings = await context.bindings(cache)
        with progress("Auditing", await keyspace.size()) as advance:
            async for batch in keyspace.walk(advance):
                for key in batch:
                    report.keys += 1
                    if key.place and key.place.kind in _DOCUMENTS:
                        report.documents[key.place.instance] += 1
                    if _examine(keyspace, key, bindings):
                        suspects[key.key] = None
        # Bindings may have changed and keys expired meanwhile: report only what is still wrong.
        bindings = await context.bindings(cache)
        async for batch in keyspace.revisit(list(suspects)):
            for key in batch:
                findings = _examine(keyspace, key, bindings)
                report.problems.update(finding.problem for finding in findings)
                report.findings += findings[: _MAX_FINDINGS - len(report.findings)]
    return report


def _examine(keyspace: Keyspace, key: KeyInfo, bindings: Bindings) -> list[AuditFinding]:
    name, place = key.key.decode(errors="backslashreplace"), key.place
    shared = name in keyspace.keys.shared
    found = list(examine_key(place, shared=shared, type_name=key.type.decode(), ttl_ms=key.ttl_ms))
    if place and key.type == b"string":
        if place.kind in _DOCUMENTS:
            found += examine_document(place, key.document(), bindings)
        else:
            found += examine_pointer(place, key.value)
    return [AuditFinding(name, problem, detail) for problem, detail in found]


def _print(report: _Report) -> None:
    keys = format_count(report.keys, "key")
    documents = format_count(report.documents.total(), "document")
    audited = f"{keys}, {documents} of {format_count(len(report.documents), 'instance')}"
    if not report.problems:
        sys.stdout.write(f"Audited {audited}: nothing is wrong.\n")
        return
    rows = [msgspec.structs.asdict(finding) for finding in report.findings]
    print_rows(rows, ("problem", "key", "detail"))
    counts = ", ".join(f"{count} {problem}" for problem, count in sorted(report.problems.items()))
    sys.stdout.write(f"Audited {audited}. Found: {counts}.\n")
    if report.problems["bot_contact"]:
        sys.stdout.write(
            "bot_contact: a worker of an earlier release cached messages of Evolution's bot "
            "contact. Nobody can read them over HTTP. A worker of this release deletes them: at "
            "its start, and an hour later.\n"
        )
    if report.problems["wrong_inbox"]:
        sys.stdout.write(
            "wrong_inbox: to delete an inbox's documents wherever it is not bound, bind it again: "
            "chatwoot-cache bindings set ACCOUNT/INBOX INSTANCE\n"
        )
