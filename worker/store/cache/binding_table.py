"""Bindings in Redis: two hashes and their version, changed by the scripts beside this module."""

import re
import secrets
from collections.abc import Mapping, Sequence

from worker.core.binding_rules import BindingClaim, Bindings
from worker.core.cache_keys import CacheKeys
from worker.store.cache.document_writer import TOMBSTONE_EXTRA_S, CacheSettings
from worker.store.client import Client, load_script, translate_errors

_INBOX = re.compile(rb"[0-9]{1,16}/[0-9]{1,16}")


class BindingTable:
    """The bindings of one prefix. Reading them renews them.

    Their version says which state a copy is of: it is another one after a binding was changed or
    taken away, or after all were lost. What is added needs no new one, since what a copy does not
    know is claimed.
    """

    def __init__(self, client: Client, settings: CacheSettings) -> None:
        keys = CacheKeys(settings.prefix)
        self._client = client
        self._inboxes = keys.bindings
        self._accounts = keys.accounts
        self._version = keys.version
        self._ttl_s = _ttl_s(settings.ttl_s)
        self._claim = load_script(client, __file__, "claim_bindings")
        self._bind = load_script(client, __file__, "bind_inboxes")

    async def version(self) -> bytes:
        """Return the version of the bindings that stand now."""
        async with translate_errors(self._client):
            return await self._client.get(self._version) or b""

    async def load(self) -> Bindings:
        """Read all bindings, and renew them."""
        async with (
            translate_errors(self._client),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            # The version first: one that is older than the rest only makes us look again.
            pipeline.get(self._version)
            pipeline.hgetall(self._inboxes)
            pipeline.hgetall(self._accounts)
            for key in (self._inboxes, self._accounts, self._version):
                pipeline.expire(key, self._ttl_s)
            *state, _, _, _ = await pipeline.execute()
        found = _bindings(*state)
        if found.instances and not found.version:
            # Of an earlier release, or evicted.
            async with translate_errors(self._client):
                await self._client.set(self._version, _new_version(), nx=True, ex=self._ttl_s)
            return await self.load()
        return found

    async def peek(self) -> Bindings:
        """Read all bindings, and change nothing."""
        async with (
            translate_errors(self._client),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            pipeline.get(self._version)
            pipeline.hgetall(self._inboxes)
            pipeline.hgetall(self._accounts)
            return _bindings(*await pipeline.execute())

    async def put(self, bindings: Bindings) -> Mapping[str, str]:
        """Write the operator's bindings over whatever stands.

        Returns the instances that inboxes were bound to before, where those were others.
        """
        return await self._change(bindings.instances)

    async def drop(self, inbox: str) -> Mapping[str, str]:
        """Unbind an inbox, and give an instance without inboxes free; returns as `put`."""
        return await self._change({inbox: ""})

    async def _change(self, instances: Mapping[str, str]) -> Mapping[str, str]:
        if not instances:
            return {}
        arguments: list[str | int] = [self._ttl_s, _new_version()]
        for inbox, instance in instances.items():
            arguments += (inbox, inbox.partition("/")[0], instance)
        async with translate_errors(self._client):
            before = await self._bind([self._inboxes, self._accounts, self._version], arguments)
        pairs = zip(instances, before, strict=True)
        return {inbox: was.decode() for inbox, was in pairs if was}

    async def claim(self, claims: Sequence[BindingClaim]) -> Bindings:
        """Ask for new bindings; returns those that stand now, granted or not.

        With a version only where these are the first bindings of all.
        """
        arguments: list[str | int] = [self._ttl_s, _new_version()]
        for claim in claims:
            arguments += (claim.inbox, claim.account_id, claim.instance, int(claim.further))
        async with translate_errors(self._client):
            keys = [self._inboxes, self._accounts, self._version]
            version, *replies = await self._claim(keys, arguments)
        pairs = list(zip(claims, replies, strict=True))
        return Bindings(
            {claim.inbox: bound.decode() for claim, (bound, _) in pairs if bound},
            {claim.instance: int(owner) for claim, (_, owner) in pairs if owner},
            version,
        )


def _bindings(
    version: bytes | None, instances: Mapping[bytes, bytes], accounts: Mapping[bytes, bytes]
) -> Bindings:
    """Read what the hashes hold; a field that nobody of ours wrote must not stop every worker."""
    return Bindings(
        {i.decode(): name.decode() for i, name in instances.items() if _INBOX.fullmatch(i)},
        {name.decode(): int(a) for name, a in accounts.items() if a.isdigit()},
        version or b"",
    )


def _new_version() -> str:
    return secrets.token_hex(8)


def _ttl_s(documents_ttl_s: int) -> int:
    """No document outlives its binding, not even a tombstone under a short time to live."""
    return max(4 * documents_ttl_s, documents_ttl_s + 2 * TOMBSTONE_EXTRA_S)
