"""`audit`: look at everything in the cache, and report what should never be there."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Final

import anyio
import msgspec

from worker.cli import table
from worker.cli.formatting import format_count
from worker.cli.progress import progress
from worker.core.binding_rules import Bindings
from worker.core.tooling.audit_rules import (
    AuditFinding,
    examine_document,
    examine_key,
    examine_pointer,
)
from worker.settings import LoadedSettings
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_writer import CacheSettings
from worker.store.cache.keyspace import KeyInfo, Keyspace
from worker.store.client import open_client

_MOST: Final = 10_000
"""Findings that are listed; all are counted."""


def add(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "audit",
        help="look for documents and keys that should not be in the cache",
        description="Read every key of the prefix, in steps, and report documents under the wrong "
        "instance, account or inbox, keys without a time to live, and keys that this program does "
        "not write. Changes nothing. Exit code 1: something was found.",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(func=run)


class _Report(msgspec.Struct):
    """What was looked at, and what was found."""

    keys: int = 0
    documents: Counter[str] = msgspec.field(default_factory=Counter)
    problems: Counter[str] = msgspec.field(default_factory=Counter)
    findings: list[AuditFinding] = msgspec.field(default_factory=list)


def run(arguments: argparse.Namespace, loaded: LoadedSettings) -> int:
    """Report what is wrong; 1 when anything is."""
    report = anyio.run(_audit, loaded)
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        _print(report)
    return 1 if report.problems else 0


async def _audit(loaded: LoadedSettings) -> _Report:
    settings = loaded.settings
    of = CacheSettings(settings.cache_redis_prefix_key, settings.cache_redis_ttl)
    operator = Bindings.of_operator(settings.instances)
    report, suspects = _Report(), dict[bytes, None]()
    async with open_client(settings.cache_uri.get_secret_value()) as client:
        namespace, bindings = Keyspace(client, of.prefix), BindingTable(client, of)
        standing = (await bindings.peek()).overruled_by(operator)
        with progress("Auditing", await namespace.size()) as advance:
            async for some in namespace.walk(advance):
                for found in some:
                    _count(report, found)
                    if any(_examine(namespace, found, standing)):
                        suspects[found.key] = None
        # What was bound or expired meanwhile is no fault: only what is still wrong is.
        standing = (await bindings.peek()).overruled_by(operator)
        async for some in namespace.revisit(list(suspects)):
            for found in some:
                _note(report, list(_examine(namespace, found, standing)))
    return report


def _count(report: _Report, found: KeyInfo) -> None:
    report.keys += 1
    if found.place and found.place.kind in ("message", "conversation"):
        report.documents[found.place.instance] += 1


def _note(report: _Report, findings: list[AuditFinding]) -> None:
    report.problems.update(finding.problem for finding in findings)
    report.findings += findings[: _MOST - len(report.findings)]


def _examine(namespace: Keyspace, found: KeyInfo, bindings: Bindings) -> Iterator[AuditFinding]:
    key = found.key.decode(errors="backslashreplace")
    place = found.place
    problems = list(
        examine_key(
            place,
            shared=key in namespace.keys.shared,
            type_name=found.type.decode(),
            ttl_ms=found.ttl_ms,
        )
    )
    if place and found.type == b"string":
        if place.kind in ("message", "conversation"):
            problems += examine_document(place, found.document(), bindings)
        else:
            problems += examine_pointer(place, found.value)
    for problem, detail in problems:
        yield AuditFinding(key, problem, detail)


def _print(report: _Report) -> None:
    keys, instances = (
        format_count(report.keys, "key"),
        format_count(len(report.documents), "instance"),
    )
    looked = f"{keys}, {format_count(report.documents.total(), 'document')} of {instances}"
    if not report.problems:
        sys.stdout.write(f"Audited {looked}: nothing is wrong.\n")
        return
    rows = [msgspec.structs.asdict(finding) for finding in report.findings]
    table.print_rows(rows, ("problem", "key", "detail"), as_json=False)
    counts = ", ".join(f"{count} {problem}" for problem, count in sorted(report.problems.items()))
    sys.stdout.write(f"Audited {looked}. Found: {counts}.\n")
    if report.problems["bot_contact"]:
        sys.stdout.write(
            "A worker of an earlier release cached messages of Evolution's bot contact. Nobody can "
            "read them over HTTP, and a worker of this release deletes them: at its start, and an "
            "hour later.\n"
        )
    if report.problems["wrong_inbox"]:
        sys.stdout.write(
            "To delete an inbox's documents wherever it is not bound, "
            "bind it once more: chatwoot-cache bindings set ACCOUNT/INBOX INSTANCE\n"
        )
