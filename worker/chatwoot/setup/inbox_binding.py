"""Pairs become bindings: added where nothing stands, never put over what does."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from worker.core.binding_rules import BindingClaim, Bindings, bind_command
from worker.core.inbox_matching import Inbox, MatchedInbox, MatchResult, Unmatched

State = Literal["bound", "already bound", "would bind", "not bound"]


class BindingRow(NamedTuple):
    """What became of an inbox or an instance; `usual` where nothing is amiss."""

    inbox: Inbox | None
    instance: str | None
    state: State
    reason: str = ""
    usual: bool = True


class BindingTable(Protocol):
    """The bindings that all workers share."""

    async def peek(self) -> Bindings:
        """Read all bindings, and change nothing."""

    async def claim(self, claims: Sequence[BindingClaim]) -> Bindings:
        """Ask for new bindings; returns those that stand now."""


async def bind_inboxes(
    table: BindingTable,
    judged: Iterable[MatchResult],
    operator: Mapping[str, str],
    *,
    dry_run: bool,
) -> list[BindingRow]:
    """Bind what was paired, and say what became of everything that was judged.

    `operator` are the bindings of the settings, which outrank these.
    """
    all_judged = list(judged)
    fixed = Bindings.of_operator(operator)
    standing = (await table.peek()).overruled_by(fixed)
    rows: list[BindingRow] = []
    claims: dict[str, BindingClaim] = {}
    for one in all_judged:
        if isinstance(one, Unmatched):
            rows.append(BindingRow(one.inbox, one.instance, "not bound", one.reason, one.usual))
            continue
        row = _standing(one, standing)
        if row is None:
            claims[one.inbox.key] = BindingClaim(
                one.inbox.account_id, one.inbox.id, one.instance, further=True
            )
            row = BindingRow(one.inbox, one.instance, "would bind" if dry_run else "bound")
        rows.append(row)
    if dry_run or not claims:
        return rows
    granted = (await table.claim(list(claims.values()))).overruled_by(fixed)
    return [
        _granted(row, granted) if row.inbox and row.inbox.key in claims else row for row in rows
    ]


def _standing(pair: MatchedInbox, standing: Bindings) -> BindingRow | None:
    """Return what stands already where a pair is to be bound, None where it may be."""
    inbox, instance = pair
    bound = standing.instances.get(inbox.key)
    if bound == instance:
        return BindingRow(inbox, instance, "already bound")
    if bound is not None:
        change = bind_command(inbox.key, instance)
        reason = f"it is bound to instance {bound!r}; if that is wrong: {change}"
        return BindingRow(inbox, instance, "not bound", reason, usual=False)
    owner = standing.accounts.get(instance, inbox.account_id)
    if owner != inbox.account_id:
        reason = f"instance {instance!r} belongs to account {owner}: give it another name"
        return BindingRow(inbox, instance, "not bound", reason, usual=False)
    return None


def _granted(row: BindingRow, granted: Bindings) -> BindingRow:
    """Correct a row where somebody else was faster."""
    assert row.inbox is not None  # noqa: S101  (claims are of inboxes)
    assert row.instance is not None  # noqa: S101
    return (
        row
        if granted.instances.get(row.inbox.key) == row.instance
        else (
            _standing(MatchedInbox(row.inbox, row.instance), granted)
            or row._replace(
                state="not bound", reason="another worker was faster: run this again", usual=False
            )
        )
    )
