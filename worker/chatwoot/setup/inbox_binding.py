"""Binds matched inboxes; an existing binding is never replaced."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from worker.core.binding_rules import BindingClaim, Bindings, bind_command
from worker.core.inbox_matching import Inbox, MatchResult, Unmatched
from worker.store.cache.binding_table import BindingTable

BindingState = Literal["bound", "already bound", "would bind", "not bound"]


class BindingRow(NamedTuple):
    """The result for an inbox or an instance; `is_normal` where nobody has to act."""

    inbox: Inbox | None
    instance: str | None
    state: BindingState
    reason: str = ""
    is_normal: bool = True


async def bind_inboxes(
    table: BindingTable,
    results: Sequence[MatchResult],
    operator: Mapping[str, str],
    *,
    dry_run: bool,
) -> list[BindingRow]:
    """Bind the matched inboxes, and return a row for every result.

    `operator` are the bindings of the settings, which have precedence.
    """
    fixed = Bindings.of_operator(operator)
    current = (await table.peek()).overruled_by(fixed)
    rows = [_check(result, current) for result in results]
    claims = [
        BindingClaim(row.inbox.account_id, row.inbox.id, row.instance, further=True)
        for row in rows
        if row.state == "would bind" and row.inbox and row.instance
    ]
    if dry_run or not claims:
        return rows
    granted = (await table.claim(claims)).overruled_by(fixed)
    return [
        _claimed(_check(result, granted)) if row.state == "would bind" else row
        for row, result in zip(rows, results, strict=True)
    ]


def _check(result: MatchResult, bindings: Bindings) -> BindingRow:
    if isinstance(result, Unmatched):
        return BindingRow(
            result.inbox, result.instance, "not bound", result.reason, result.is_normal
        )
    inbox, instance = result
    bound = bindings.instances.get(inbox.key)
    owner = bindings.accounts.get(instance, inbox.account_id)
    if bound == instance:
        return BindingRow(inbox, instance, "already bound")
    if bound is not None:
        command = bind_command(inbox.key, instance)
        reason = f"it is bound to instance {bound!r}; if that is wrong: {command}"
    elif owner != inbox.account_id:
        reason = f"instance {instance!r} belongs to account {owner}: give it another name"
    else:
        return BindingRow(inbox, instance, "would bind")
    return BindingRow(inbox, instance, "not bound", reason, is_normal=False)


def _claimed(row: BindingRow) -> BindingRow:
    """Return the row of an inbox that was claimed."""
    if row.state == "already bound":
        return row._replace(state="bound")
    reason = row.reason or "another worker changed the bindings: run this again"
    return row._replace(state="not bound", reason=reason, is_normal=False)
