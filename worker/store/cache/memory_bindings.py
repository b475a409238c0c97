"""Bindings in this process's memory, granted by the rules of `claim_bindings.lua`."""

from collections.abc import Mapping, Sequence

from worker.core.binding_rules import BindingClaim, Bindings


class MemoryBindings:
    """The bindings that the stream's entries claimed, in stream order."""

    def __init__(self) -> None:
        self._instances: dict[str, str] = {}
        self._accounts: dict[str, int] = {}

    @property
    def accounts(self) -> Mapping[str, int]:
        """The account of each instance."""
        return self._accounts

    async def version(self) -> bytes:
        """Return a constant: no other process changes these bindings."""
        return b""

    async def load(self) -> Bindings:
        """Return all bindings."""
        return Bindings(dict(self._instances), dict(self._accounts))

    async def put(self, bindings: Bindings) -> Mapping[str, str]:
        """Write the operator's bindings; called before any claim, so nothing is replaced."""
        self._instances.update(bindings.instances)
        self._accounts.update(bindings.accounts)
        return {}

    async def claim(self, claims: Sequence[BindingClaim]) -> Bindings:
        """Claim bindings; returns all bindings, those of the claimed inboxes among them."""
        for claim in claims:
            owner = self._accounts.get(claim.instance)
            is_free = owner is None or (owner == claim.account_id and claim.further)
            if claim.inbox not in self._instances and is_free:
                self._instances[claim.inbox] = claim.instance
                self._accounts[claim.instance] = claim.account_id
        return await self.load()
