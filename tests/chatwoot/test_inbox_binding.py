"""Inboxes that another worker binds between the look and the claim are reported as not bound."""

from collections.abc import Sequence

import pytest

from worker.chatwoot.setup.inbox_binding import bind_inboxes
from worker.core.binding_rules import BindingClaim, Bindings
from worker.core.inbox_matching import Inbox, MatchedInbox
from worker.store.cache.binding_table import BindingTable

MATCH = MatchedInbox(Inbox(12, 3, "loja", "Channel::Api"), "loja")


class RacedTable(BindingTable):
    """A table that is empty at first; `granted` is what claims find."""

    def __init__(self, granted: Bindings) -> None:
        self.granted = granted
        self.claims: list[BindingClaim] = []

    async def peek(self) -> Bindings:
        return Bindings()

    async def claim(self, claims: Sequence[BindingClaim]) -> Bindings:
        self.claims += claims
        return self.granted


@pytest.mark.parametrize(
    ("granted", "state", "reason"),
    [
        (Bindings({"3/12": "loja"}, {"loja": 3}), "bound", ""),
        (Bindings({"3/12": "outra"}, {"outra": 3}), "not bound", "bound to instance 'outra'"),
        (Bindings({}, {"loja": 4}), "not bound", "belongs to account 4"),
        (Bindings(), "not bound", "another worker changed the bindings"),
    ],
)
async def test_the_row_is_what_the_claim_found(granted: Bindings, state: str, reason: str) -> None:
    table = RacedTable(granted)

    (row,) = await bind_inboxes(table, [MATCH], {}, dry_run=False)

    assert (row.inbox, row.instance, row.state) == (*MATCH, state)
    assert reason in row.reason
    assert row.is_normal == (state == "bound")
    assert [(claim.inbox, claim.instance, claim.further) for claim in table.claims] == [
        ("3/12", "loja", True)
    ]
