"""Bindings in this process alone, granted by the rules of the script that grants them in Redis."""

from collections.abc import Mapping, Sequence

from worker.core.binding_rules import BindingClaim, Bindings


class MemoryBindings:
    """The bindings that the entries of the stream brought, in their order."""

    def __init__(self) -> None:
        self._instances: dict[str, str] = {}
        self._accounts: dict[str, int] = {}

    @property
    def accounts(self) -> Mapping[str, int]:
        """Which account each instance belongs to."""
        return self._accounts

    async def version(self) -> bytes:
        """Nobody else changes them."""
        return b""

    async def load(self) -> Bindings:
        """Return all bindings."""
        return Bindings(dict(self._instances), dict(self._accounts))

    async def put(self, bindings: Bindings) -> Mapping[str, str]:
        """Write the operator's bindings; they come first, so nothing stands against them."""
        self._instances.update(bindings.instances)
        self._accounts.update(bindings.accounts)
        return {}

    async def claim(self, claims: Sequence[BindingClaim]) -> Bindings:
        """Ask for new bindings; returns those that stand now, granted or not."""
        for claim in claims:
            owner = self._accounts.get(claim.instance)
            is_free = owner is None or (owner == claim.account_id and claim.further)
            if claim.inbox not in self._instances and is_free:
                self._instances[claim.inbox] = claim.instance
                self._accounts[claim.instance] = claim.account_id
        return Bindings(
            {c.inbox: self._instances[c.inbox] for c in claims if c.inbox in self._instances},
            {
                c.instance: self._accounts[c.instance]
                for c in claims
                if c.instance in self._accounts
            },
        )
