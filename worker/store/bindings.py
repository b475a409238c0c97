"""Bindings in Redis: two hashes, claimed by the script beside this module."""

import re
from collections.abc import Sequence

from worker.core.bindings import Bindings, Claim
from worker.core.keys import Keys
from worker.store.cache import TOMBSTONE_EXTRA_S, CacheSettings
from worker.store.connect import Client, register, translated

_INBOX = re.compile(rb"[0-9]{1,16}/[0-9]{1,16}")


class BindingTable:
    """The bindings of one prefix. Reading them renews them."""

    def __init__(self, client: Client, settings: CacheSettings) -> None:
        keys = Keys(settings.prefix)
        self._client = client
        self._inboxes = keys.bindings
        self._accounts = keys.accounts
        self._ttl_s = _ttl_s(settings.ttl_s)
        self._claim = register(client, "claim")

    async def load(self) -> Bindings:
        """Read all bindings, and renew them."""
        async with (
            translated(self._client),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            pipeline.hgetall(self._inboxes)
            pipeline.hgetall(self._accounts)
            self._renew(pipeline)
            instances, accounts, *_ = await pipeline.execute()
        # A field that nobody of ours wrote must not stop every worker.
        return Bindings(
            {i.decode(): name.decode() for i, name in instances.items() if _INBOX.fullmatch(i)},
            {name.decode(): int(a) for name, a in accounts.items() if a.isdigit()},
        )

    async def put(self, bindings: Bindings) -> None:
        """Write the operator's bindings over whatever stands."""
        if not bindings.instances:
            return
        async with (
            translated(self._client),
            self._client.pipeline(transaction=True) as pipeline,
        ):
            pipeline.hset(self._inboxes, mapping=dict(bindings.instances))
            pipeline.hset(self._accounts, mapping=dict(bindings.accounts))
            self._renew(pipeline)
            await pipeline.execute()

    def _renew(self, pipeline: Client) -> None:
        pipeline.expire(self._inboxes, self._ttl_s)
        pipeline.expire(self._accounts, self._ttl_s)

    async def claim(self, claims: Sequence[Claim]) -> Bindings:
        """Ask for new bindings; returns those that stand now, granted or not."""
        arguments: list[str | int] = [self._ttl_s]
        for claim in claims:
            arguments += (claim.inbox, claim.account_id, claim.instance, int(claim.further))
        async with translated(self._client):
            replies = await self._claim([self._inboxes, self._accounts], arguments)
        pairs = list(zip(claims, replies, strict=True))
        return Bindings(
            {claim.inbox: bound.decode() for claim, (bound, _) in pairs if bound},
            {claim.instance: int(owner) for claim, (_, owner) in pairs if owner},
        )


def _ttl_s(documents_ttl_s: int) -> int:
    """No document outlives its binding, not even a tombstone under a short time to live."""
    return max(4 * documents_ttl_s, documents_ttl_s + 2 * TOMBSTONE_EXTRA_S)
